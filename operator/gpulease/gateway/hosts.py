"""Who holds which host name: decided over the kept manifests, written into them (gateway reference §1, §5.3).

A name belongs to the lease that asked for it first, as long as that lease's manifest is kept. Another lease of the
same owner that asks for it runs without it until the owner migrates it; another owner is refused. What a lease holds
stands in an annotation of its Secret, which the operator reads when it makes the lease's ingress. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpulease.errors import ManifestError
from gpulease.ids import LeaseId
from gpulease.workload.model import ManifestGroup


class HostRefused(ManifestError):
    """Blocked, or somebody else's."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One lease's kept manifest: the names it asks for, and of them the ones that lead to it."""

    secret: Mapping[str, Any]
    lease: LeaseId
    wanted: frozenset[str]
    held: frozenset[str]


def wanted(group: ManifestGroup) -> frozenset[str]:
    """Every custom host name of a group, lower case."""
    return frozenset(host.lower() for s in group.services for e in s.expose for host in e.hosts or ())


def blocked(host: str, rules: Iterable[str]) -> bool:
    """A rule with a leading dot blocks every name under it, and the bare domain."""
    return any(host == rule or (rule.startswith(".") and (host.endswith(rule) or host == rule[1:])) for rule in rules)


def holders(entries: Sequence[Kept]) -> dict[str, LeaseId]:
    """Name to lease; of two that claim one, the first: entries come oldest first."""
    found: dict[str, LeaseId] = {}
    for entry in entries:
        for host in entry.held:
            found.setdefault(host, entry.lease)
    return found


def assign(
    entries: Sequence[Kept], lease: LeaseId, names: frozenset[str], *, blocked_hosts: Iterable[str]
) -> frozenset[str]:
    """Which of the names a lease gets at once; ``HostRefused`` for one that it may not even ask for."""
    rules = tuple(blocked_hosts)
    taken = holders([entry for entry in entries if entry.lease != lease])
    got: set[str] = set()
    for host in sorted(names):
        if blocked(host, rules):
            raise HostRefused(f"hostname not allowed: {host!r} is blocked by this provider; use a name of your own")
        holder = taken.get(host)
        if holder is None:
            got.add(host)
        elif holder.owner != lease.owner:
            raise HostRefused(f"hostname not allowed: {host!r} is in use by another tenant; use a name of your own")
    return frozenset(got)


def move(entries: Sequence[Kept], lease: LeaseId, names: Sequence[str]) -> list[Kept]:
    """The Secrets to write, in order: first every lease that gives a name up, then the one that gets them.

    A stop in between leaves a name with nobody, and the same call again gives it to ``lease``.
    """
    here = next((entry for entry in entries if entry.lease == lease), None)
    asked = frozenset(name.lower() for name in names)
    if here is None:
        raise HostRefused("destination deployment does not exist")
    for name in sorted(asked - here.wanted):
        raise HostRefused(f"hostname {name!r} is not in the manifest of the destination deployment")
    taken = holders([entry for entry in entries if entry.lease != lease])
    for name in sorted(asked):
        if name in taken and taken[name].owner != lease.owner:
            raise HostRefused(f"hostname {name!r} is in use by another tenant")
    giving = [replace(e, held=e.held - asked) for e in entries if e.lease != lease and e.held & asked]
    return [*giving, replace(here, held=here.held | asked)]
