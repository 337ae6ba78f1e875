"""Who acts: a holder of one ``coordination.k8s.io`` Lease, with a counter that fences off the holders before it.

A Lease alone cannot stop a process that stalled, lost it, and wakes up: so every take-over raises
``leaseTransitions``, and the new holder hands that number (``fence``) to the store, which refuses older ones. Renewal
is a write each ``renew_every_s``; with a single replica and ``Recreate`` roll-out this is off (``standalone``).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from gpulease.errors import GpuleaseError, KubeConflict, KubeError, KubeUnreachable
from gpulease.kube.refs import Json, Ref

_LOG = structlog.get_logger(__name__)


class LeadershipLost(GpuleaseError):
    """Another process holds the Lease, or ours could not be renewed in time: stop acting at once."""


class LeaseStore(Protocol):
    """The part of :class:`gpulease.kube.client.Cluster` that this needs."""

    async def get(self, ref: Ref, *, deadline_s: float | None = None) -> Json | None: ...

    async def create(self, obj: Mapping[str, Any], *, field_manager: str = ...) -> Json: ...

    async def replace(self, obj: Mapping[str, Any], *, field_manager: str = ...) -> Json: ...


class Election:
    """``acquire`` waits for the Lease, ``hold`` keeps it until it is lost, ``release`` hands it over."""

    def __init__(
        self,
        cluster: LeaseStore,
        *,
        namespace: str,
        name: str = "gpulease-operator",
        host: str = "",
        lease_s: float = 15.0,
        renew_every_s: float = 4.0,
        wall: Callable[[], datetime] | None = None,
    ) -> None:
        if not 0 < renew_every_s * 2 < lease_s:
            raise ValueError(f"renew_every_s {renew_every_s:g} must be less than half of lease_s {lease_s:g}")
        self._cluster = cluster
        self._ref = Ref("coordination.k8s.io/v1", "Lease", name, namespace)
        # A restarted process is another holder: what its predecessor sent must be fenced off too.
        self.identity = f"{host}_{uuid.uuid4()}" if host else str(uuid.uuid4())
        self._lease_s = lease_s
        self._renew_every_s = renew_every_s
        self._wall = wall or (lambda: datetime.now(UTC))
        self._seen: tuple[str, float] | None = None
        self._held: Json | None = None
        self._renewed_s = 0.0
        self.fence: int | None = None

    def is_leader(self) -> bool:
        """Whether acting is safe now, by our own monotonic clock: asked before each irreversible step."""
        return self._held is not None and _now_s() < self._renewed_s + self._lease_s - self._renew_every_s

    async def acquire(self) -> int:
        """Wait until the Lease is ours; the fence number is larger than any holder's before."""
        while True:
            try:
                if await self._try_take():
                    assert self.fence is not None
                    _LOG.info("leading", lease=str(self._ref), fence=self.fence)
                    return self.fence
            except (KubeConflict, KubeUnreachable) as error:
                _LOG.info("not leading yet", error=str(error))
            await asyncio.sleep(self._renew_every_s)

    async def hold(self) -> None:
        """Renew until that fails for too long or somebody else took over; then raise ``LeadershipLost``."""
        while True:
            await asyncio.sleep(self._renew_every_s)
            try:
                await self._renew()
            except KubeConflict as error:
                live = await self._read_holder()
                if live != self.identity:
                    self._held = None
                    raise LeadershipLost(
                        f"{self._ref} is held by {live or 'nobody'} now; this process stops"
                    ) from error
            except (KubeUnreachable, KubeError) as error:
                _LOG.warning("lease not renewed", error=str(error))
            if not self.is_leader():
                self._held = None
                raise LeadershipLost(f"{self._ref} was not renewed within its time; this process stops")

    async def release(self) -> None:
        """Let the next process start at once. Best effort: the Lease runs out anyway."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            spec = {**held["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            await self._cluster.replace({**held, "spec": spec})
        except (KubeError, KubeUnreachable) as error:
            _LOG.info("lease not released", error=str(error))

    async def _try_take(self) -> bool:
        began_s = _now_s()
        live = await self._cluster.get(self._ref)
        if live is None:
            meta = {"name": self._ref.name, "namespace": self._ref.namespace}
            body = {"apiVersion": self._ref.api_version, "kind": self._ref.kind, "metadata": meta}
            self._adopt(await self._cluster.create({**body, "spec": self._spec(1)}), began_s)
            return True
        if not self._expired(live):
            return False
        transitions = int(live.get("spec", {}).get("leaseTransitions") or 0) + 1
        self._adopt(await self._cluster.replace({**live, "spec": self._spec(transitions)}), began_s)
        return True

    def _expired(self, live: Json) -> bool:
        """By how long *we* have seen the same record, never by comparing clocks of two machines."""
        spec = live.get("spec", {})
        if not spec.get("holderIdentity"):
            return True
        version = str(live["metadata"]["resourceVersion"])
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, _now_s())
            return False
        return _now_s() > self._seen[1] + float(spec.get("leaseDurationSeconds") or self._lease_s)

    async def _renew(self) -> None:
        assert self._held is not None
        began_s = _now_s()
        spec = {**self._held["spec"], "renewTime": self._stamp()}
        self._adopt(await self._cluster.replace({**self._held, "spec": spec}), began_s)

    async def _read_holder(self) -> str:
        """Who holds the Lease now. If it is us, the version is taken over: our own lost answer caused the conflict."""
        try:
            live = await self._cluster.get(self._ref)
        except (KubeError, KubeUnreachable):
            return self.identity
        holder = str((live or {}).get("spec", {}).get("holderIdentity") or "")
        if live is not None and holder == self.identity:
            self._held = live
        return holder

    def _adopt(self, body: Json, began_s: float) -> None:
        self._held = body
        self._renewed_s = began_s
        self.fence = int(body["spec"].get("leaseTransitions") or 0)

    def _spec(self, transitions: int) -> Json:
        stamp = self._stamp()
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(int(self._lease_s), 1),
            "acquireTime": stamp,
            "renewTime": stamp,
            "leaseTransitions": transitions,
        }

    def _stamp(self) -> str:
        return self._wall().strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _now_s() -> float:
    return asyncio.get_running_loop().time()
