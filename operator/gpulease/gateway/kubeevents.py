"""Kubernetes events of a lease, present ones first, then as they come (gateway reference §2)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from gpulease.errors import KubeError, KubeUnreachable
from gpulease.gateway.desk import Desk, NoWorkloads
from gpulease.gateway.report import workload_name
from gpulease.kube.refs import Json

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
_API, _KIND = "events.k8s.io/v1", "Event"
_MOST_SEEN = 2000
_RETRY_S = 1.0


def frame(event: Json) -> dict[str, Any]:
    """An ``events.k8s.io/v1`` Event as the protocol tells it."""
    regarding = event.get("regarding") or {}
    source = event.get("deprecatedSource") or {}
    body: dict[str, Any] = {"type": str(event.get("type", ""))}
    controller = event.get("reportingController") or source.get("component")
    instance = event.get("reportingInstance") or source.get("host")
    body |= {"reportingController": str(controller)} if controller else {}
    body |= {"reportingInstance": str(instance)} if instance else {}
    return body | {
        "reason": str(event.get("reason", "")),
        "note": str(event.get("note", "")),
        "object": {name: str(regarding.get(name, "")) for name in ("kind", "namespace", "name")},
    }


def service_of(name: str, services: frozenset[str]) -> str | None:
    """The service that an object's name begins with; the longest, for one may begin like another."""
    return max((s for s in services if name == s or name.startswith(f"{s}-")), key=len, default=None)


async def relay(
    desk: Desk, namespace: str, send: Send, *, services: frozenset[str] | None, follow: bool, poll_s: float
) -> None:
    """``services`` None: all events. Ends after the present ones, or with ``follow`` when the lease is gone.

    ``NoWorkloads`` when the lease is unknown, else what the API server said.
    """
    running = await desk.running(namespace)
    if not running.workloads:
        raise NoWorkloads
    known = frozenset(workload_name(w) for w in running.workloads) | (services or frozenset())
    relayed = _Relayed(send, known, services)
    listing = await desk.cluster.list(_API, _KIND, namespace=namespace)
    for event in sorted(listing.items, key=_time):
        await relayed.tell(event)
    if not follow:
        return
    watching = asyncio.create_task(_watch(desk, namespace, relayed, listing.resource_version))
    ending = asyncio.create_task(_until_gone(desk, namespace, poll_s))
    try:
        done, _ = await asyncio.wait({watching, ending}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (watching, ending):
            task.cancel()
        await asyncio.gather(watching, ending, return_exceptions=True)


def _time(event: Json) -> str:
    return str(event.get("eventTime") or event.get("deprecatedLastTimestamp") or event["metadata"]["creationTimestamp"])


class _Relayed:
    """Tells each version of an event once."""

    def __init__(self, send: Send, known: frozenset[str], services: frozenset[str] | None) -> None:
        self._send = send
        self._known = known
        self._services = services
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def tell(self, event: Json) -> None:
        meta = event["metadata"]
        key = (str(meta.get("uid") or meta.get("name")), str(meta.get("resourceVersion", "")))
        if key in self._seen:
            return
        self._seen[key] = None
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)
        name = str((event.get("regarding") or {}).get("name", ""))
        if self._services is None or service_of(name, self._known) in self._services:
            await self._send(frame(event))


async def _watch(desk: Desk, namespace: str, relayed: _Relayed, version: str) -> None:
    while True:
        try:
            watch = desk.cluster.watch(_API, _KIND, namespace=namespace, resource_version=version)
            async with aclosing(watch) as changes:
                async for type_, event in changes:
                    version = str(event["metadata"].get("resourceVersion") or version)
                    if type_ in ("ADDED", "MODIFIED"):
                        await relayed.tell(event)
        except KubeUnreachable:
            pass  # asked again below
        except KubeError as error:
            if error.status != 410:
                raise
            listing = await desk.cluster.list(_API, _KIND, namespace=namespace)
            version = listing.resource_version
            for event in sorted(listing.items, key=_time):
                await relayed.tell(event)
        await asyncio.sleep(_RETRY_S)


async def _until_gone(desk: Desk, namespace: str, poll_s: float) -> None:
    missed = 0
    while missed < 2:
        await asyncio.sleep(poll_s)
        try:
            running = await desk.running(namespace)
        except (KubeUnreachable, KubeError):
            continue  # unknown is not gone
        missed = 0 if running.workloads else missed + 1
