"""Who a host name belongs to: the first live lease that asked for it, until that lease is gone.

Two tenants with one name in their manifests would otherwise share, or steal, each other's traffic at the ingress.
"""

from __future__ import annotations

from gpulease.ids import LeaseId
from gpulease.store.journal import Journal
from gpulease.workload.model import ManifestGroup
from gpulease.workload.objects import Hosting

_KIND = "hostname"
_MOST_PER_LEASE = 64


class Hostnames:
    """Claims in the journal; nothing is awaited between look and claim, so two leases cannot get one name."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def claim(self, lease: LeaseId, group: ManifestGroup, hosting: Hosting) -> str | None:
        """Takes every name that the group asks for, or none; why not, in words for the tenant."""
        names = sorted(
            {name.lower() for s in group.services for e in s.expose if e.is_ingress for name in e.hosts or ()}
        )
        if len(names) > _MOST_PER_LEASE:
            return f"the manifest asks for {len(names)} host names; at most {_MOST_PER_LEASE} are given to a lease"
        for name in names:
            if _reserved(name, hosting):
                return f"the host name {name} is one of the provider's own: choose a name of your domain"
            owner = self._owner(name)
            if owner is not None and owner != str(lease):
                return f"the host name {name} belongs to another lease here: choose another, or close that lease first"
        kept = {name for name, _ in self._journal.list_open(_KIND, owner=str(lease))}
        with self._journal.transaction():
            for name in names:
                if name not in kept:
                    self._journal.put(_KIND, name, {"lease": str(lease)}, owner=str(lease))
            for name in kept - set(names):
                self._journal.delete(_KIND, name)
        return None

    def release(self, lease: LeaseId) -> None:
        for name, _ in self._journal.list_open(_KIND, owner=str(lease)):
            self._journal.delete(_KIND, name)

    def _owner(self, name: str) -> str | None:
        body = self._journal.get(_KIND, name)
        return None if body is None else str(body["lease"])


def _reserved(name: str, hosting: Hosting) -> bool:
    if name == hosting.public_host.lower():
        return True
    domain = hosting.domain.lower()
    return bool(domain) and (name == domain or name.endswith(f".{domain}"))
