"""Moving host names and endpoints between an owner's deployments (gateway reference §1)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gpulease.gateway.desk import Desk
from gpulease.gateway.hosts import HostRefused
from gpulease.gateway.query import MOST_U32, MOST_U64
from gpulease.ids import LeaseId

_MOST_NAMES = 256
Move = Callable[[Desk, LeaseId, tuple[str, ...]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Asked:
    names: tuple[str, ...]
    dseq: int
    gseq: int


def read(raw: bytes, field: str) -> Asked | None:
    """None for a body that is not what the route takes; an empty list is read."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    names = body.get(field)
    numbers = [body.get("destination_dseq", 0), body.get("destination_gseq", 0)]
    if names is None:
        names = []
    if not isinstance(names, list) or len(names) > _MOST_NAMES or not all(isinstance(name, str) for name in names):
        return None
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
        return None
    if numbers[0] > MOST_U64 or numbers[1] > MOST_U32:
        return None
    return Asked(tuple(names), numbers[0], numbers[1])


async def hosts(desk: Desk, lease: LeaseId, names: tuple[str, ...]) -> None:
    """``HostRefused`` when a name is not the lease's to have."""
    await desk.move_hosts(names, lease)


async def endpoints(desk: Desk, lease: LeaseId, names: tuple[str, ...]) -> None:
    """Addresses follow the manifest: an endpoint that it names is the lease's already."""
    group = await desk.group(lease)
    known = {e.ip for s in group.services for e in s.expose if e.ip} if group is not None else set()
    for name in names:
        if name not in known:
            raise HostRefused(f"endpoint {name!r} is not in the manifest of the destination deployment")
