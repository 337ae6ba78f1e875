"""Kubernetes Events for the people who own an object: few, and the same one never twice in a row.

Repeats within the quiet time are counted in memory; after it the stored Event's count moves up by what was held
back. Names are derived from what the Event says, so a restarted operator finds its own Events again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from gpulease.errors import KubeConflict, KubeError, KubeUnreachable
from gpulease.kube.refs import Json, Ref

_LOG = structlog.get_logger(__name__)
_MOST_REMEMBERED = 2048
_QUIET_S = 600.0
_LONGEST_MESSAGE = 1024


class EventWriter(Protocol):
    """The part of :class:`gpulease.kube.client.Cluster` that this needs."""

    async def get(self, ref: Ref, *, deadline_s: float | None = None) -> Json | None: ...

    async def create(self, obj: Mapping[str, Any], *, field_manager: str = ...) -> Json: ...

    async def merge_patch(self, ref: Ref, patch: Mapping[str, Any], *, subresource: str = ...) -> Json: ...


@dataclass(slots=True)
class _Known:
    written_at: datetime
    held_back: int = 0


class EventRecorder:
    """Writes core/v1 Events. A failed write is logged and forgotten: an Event is never worth a failed reconcile."""

    def __init__(self, cluster: EventWriter, *, component: str, now: Callable[[], datetime] | None = None) -> None:
        self._cluster = cluster
        self._component = component
        self._now = now or (lambda: datetime.now(UTC))
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def record(self, obj: Mapping[str, Any], reason: str, message: str, *, type_: str = "Normal") -> bool:
        """True when the API server was written to. ``type_`` is ``Normal`` or ``Warning``."""
        message = message[:_LONGEST_MESSAGE]
        meta = obj["metadata"]
        said = "\n".join((str(meta.get("uid", "")), type_, reason, message))
        name = f"{str(meta['name'])[:200]}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"
        now = self._now()
        known = self._known.get(name)
        if known is not None and (now - known.written_at).total_seconds() < _QUIET_S:
            known.held_back += 1
            return False
        more = 1 + (known.held_back if known is not None else 0)
        try:
            await self._write(obj, name, reason, message, type_, now, more)
        except (KubeError, KubeUnreachable) as error:
            _LOG.warning("event not written", reason=reason, error=str(error))
            return False
        self._known[name] = _Known(now)
        self._known.move_to_end(name)
        if len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        return True

    async def _write(
        self, obj: Mapping[str, Any], name: str, reason: str, message: str, type_: str, now: datetime, more: int
    ) -> None:
        meta = obj["metadata"]
        namespace = str(meta.get("namespace") or "default")
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        body: Json = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": obj["apiVersion"],
                "kind": obj["kind"],
                "name": meta["name"],
                **({"namespace": meta["namespace"]} if meta.get("namespace") else {}),
                **({"uid": meta["uid"]} if meta.get("uid") else {}),
            },
            "reason": reason[:128],
            "message": message,
            "type": type_,
            "count": more,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "source": {"component": self._component},
            "reportingComponent": self._component,
        }
        try:
            await self._cluster.create(body)
        except KubeConflict:
            ref = Ref("v1", "Event", name, namespace)
            old = await self._cluster.get(ref)
            count = int((old or {}).get("count") or 0) + more
            await self._cluster.merge_patch(ref, {"count": count, "lastTimestamp": stamp})
