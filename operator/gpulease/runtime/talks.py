"""What this tenant and the gateways of its providers last said to each other, by lease.

Only which manifest a gateway accepted is kept on disk: everything else is asked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpulease.ids import DeploymentId, LeaseId
from gpulease.store.journal import Journal
from gpulease.tenancy.states import GatewayView, ServiceView

_KIND = "manifest-sent"
_MOST_PORTS = 128
_MOST_URIS = 16
_MOST_SERVICES = 8


class Talks:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._views: dict[LeaseId, GatewayView] = {}
        self._unready: dict[LeaseId, int] = {}

    def view(self, lease: LeaseId) -> GatewayView:
        found = self._views.get(lease)
        if found is None:
            body = self._journal.get(_KIND, str(lease))
            found = GatewayView(sent_hash=bytes.fromhex(body["hash"]) if body is not None else None)
            self._views[lease] = found
        return found

    def accepted(self, lease: LeaseId, hash_: bytes) -> None:
        self._journal.put(_KIND, str(lease), {"hash": hash_.hex()}, is_open=False)
        self._views[lease] = GatewayView(sent_hash=hash_)

    def failed(self, lease: LeaseId, words: str, *, retry_at_ns: int) -> None:
        self._views[lease] = replace(self.view(lease), problem=words, retry_at_ns=retry_at_ns)

    def unready(self, lease: LeaseId) -> int:
        """Answers in a row that did not call everything ready; this one included."""
        self._unready[lease] = self._unready.get(lease, 0) + 1
        return self._unready[lease]

    def ready(self, lease: LeaseId) -> None:
        self._unready.pop(lease, None)

    def answered(self, lease: LeaseId, body: Mapping[str, Any] | None, *, retry_at_ns: int) -> GatewayView:
        """``body`` is a lease status, None for the gateway's "nothing is deployed yet"."""
        services, ports = read_status(body or {})
        before = self.view(lease)
        found = GatewayView(before.sent_hash, None, services, ports, retry_at_ns, before.trouble)
        if is_ready(found):
            found = replace(found, trouble=None)
        self._views[lease] = found
        return found

    def troubled(self, lease: LeaseId, trouble: tuple[str, str] | None) -> None:
        self._views[lease] = replace(self.view(lease), trouble=trouble)

    def forget(self, deployment: DeploymentId) -> None:
        for lease in [known for known in self._views if known.deployment == deployment]:
            del self._views[lease]
            self._unready.pop(lease, None)
            self._journal.delete(_KIND, str(lease))


def is_ready(view: GatewayView) -> bool:
    """Every service has its replicas."""
    return bool(view.services) and all(x.ready >= x.total > 0 for x in view.services or ())


def read_status(body: Mapping[str, Any]) -> tuple[tuple[ServiceView, ...], tuple[dict[str, Any], ...]]:
    """A provider's lease status, believed only as far as its shape goes and cut to what an object's status may hold."""
    services = []
    for name, raw in sorted(_mapping(body.get("services")).items()):
        entry = _mapping(raw)
        uris = tuple(str(u)[:253] for u in entry.get("uris") or () if isinstance(u, str))
        ready = min(_count(entry.get("ready_replicas")), _count(entry.get("available")))
        services.append(ServiceView(str(name)[:63], ready, _count(entry.get("total")), uris[:_MOST_URIS]))
    ports = [
        {
            "service": str(service)[:63],
            "name": str(port.get("name", ""))[:63],
            "host": str(port.get("host", ""))[:253],
            "port": _count(port.get("port")),
            "externalPort": _count(port.get("externalPort")),
            "proto": str(port.get("proto", ""))[:4],
        }
        for service, listed in sorted(_mapping(body.get("forwarded_ports")).items())
        for port in (listed if isinstance(listed, list) else ())
        if isinstance(port, Mapping)
    ]
    return tuple(services[:_MOST_SERVICES]), tuple(ports[:_MOST_PORTS])


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 else 0
