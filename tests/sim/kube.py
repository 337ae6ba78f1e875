"""The operator's way to the simulated API server: its real transport over a wire that fails, and the ear on watches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from random import Random
from typing import Any

import aiohttp

from gpulease.errors import KubeError, KubeUnreachable
from gpulease.inventory.devices import LEASE_LABEL
from gpulease.kube.client import Cluster
from gpulease.kube.transport import Answer, Transport, _error
from gpulease.runtime.watch import Enqueue, LeaseOf, Watcher
from tests.fakes.kube_api import DEPLOYMENT, NAMESPACE, POD, Json, Kind, KubeApi, Refused
from tests.sim.faults import Faults
from tests.sim.process import Process

_API = "gpulease.dev/v1alpha1"


class SimTransport(Transport):
    """Retries and deadlines are the real ones; only the wire is simulated."""

    def __init__(self, api: KubeApi, process: Process, faults: Faults, rng: Random) -> None:
        super().__init__(_no_connection, jitter=rng.random)
        self._kube, self._process, self._faults, self._rng = api, process, faults, rng

    async def close(self) -> None:
        return None

    async def _once(
        self, method: str, path: str, query: Mapping[str, Any] | None, body: Any, content_type: str
    ) -> tuple[Answer, float | None]:
        faults = self._faults
        self._process.step(f"before {method} {path}")
        await asyncio.sleep(0.001 + 0.02 * self._rng.random())
        if faults.on("kube-down"):
            await asyncio.sleep(self._policy.attempt_s if faults.slow else 0.5)
            raise aiohttp.ClientConnectionError("connection refused")
        if faults.die("kube-lost-request"):
            await asyncio.sleep(self._policy.attempt_s)
            raise TimeoutError
        if faults.die("kube-429"):
            return Answer(429, b'{"reason":"TooManyRequests","message":"slow down"}'), 1.0
        if faults.die("kube-500"):
            return Answer(500, b'{"reason":"InternalError","message":"etcdserver: request timed out"}'), None
        if method == "PATCH" and faults.die("kube-409"):
            return Answer(409, b'{"reason":"Conflict","message":"injected"}'), None
        if method in ("PATCH", "POST") and faults.die("kube-denied"):
            return Answer(403, b'{"reason":"Forbidden","message":"admission webhook denied the request"}'), None
        query = {key: value for key, value in (query or {}).items() if value is not None}
        status, raw = self._kube.handle(method, path, query, body, content_type, actor=self._process.name)
        self.calls_total[method, status] = self.calls_total.get((method, status), 0) + 1
        self._process.step(f"after {method} {path}")
        if faults.die("kube-lost-answer"):
            await asyncio.sleep(self._policy.attempt_s)
            raise TimeoutError
        return Answer(status, raw), None

    async def lines(
        self,
        path: str,
        *,
        query: Mapping[str, Any],
        what: str,
        idle_s: float,
        longest_bytes: int = 0,
        accept: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + float(query.get("timeoutSeconds") or 300)
        version = int(query["resourceVersion"])
        heard = asyncio.Event()
        stop = self._kube.listen(lambda *_: heard.set())
        try:
            while loop.time() < ends_s:
                self._process.step("watching")
                if self._faults.on("kube-down"):
                    raise KubeUnreachable(f"{what}: the stream broke")
                if not self._faults.on("watch-silent"):
                    try:
                        events = self._kube.since(path, query, version)
                    except Refused as error:
                        raise _error(what, Answer(error.status, error.body)) from None
                    for seen, type_, body in events:
                        version = seen
                        yield json.dumps({"type": type_, "object": _metadata_only(body)}).encode()
                heard.clear()
                try:
                    async with asyncio.timeout_at(ends_s):
                        await heard.wait()
                except TimeoutError:
                    return
                await asyncio.sleep(0.02 * self._rng.random())
        finally:
            stop()


async def _no_connection() -> Any:
    raise AssertionError("the simulated transport opens no connection")


def _metadata_only(body: Json) -> Json:
    kept = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
    return {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": kept}


def sim_cluster(api: KubeApi, process: Process, faults: Faults, rng: Random) -> Cluster:
    return Cluster(SimTransport(api, process, faults, rng), now=process.now)


class SimWatcher(Watcher):
    """In kopf's place: every event reaches the same handlers, a moment later, twice at times, or not at all."""

    def __init__(
        self,
        api: KubeApi,
        process: Process,
        faults: Faults,
        rng: Random,
        *,
        enqueue: Enqueue,
        lease_of_namespace: LeaseOf,
        roles: set[str],
    ) -> None:
        super().__init__(enqueue=enqueue, lease_of_namespace=lease_of_namespace, kubeconfig=None, roles=roles)
        self._api, self._process, self._faults, self._rng = api, process, faults, rng
        self._pending: asyncio.Queue[tuple[str, Kind, Json]] = asyncio.Queue()

    async def run(self) -> None:
        stop = self._api.listen(self._heard)
        try:
            while True:
                # As kopf does: what is there comes first, as events of no type.
                if not self._faults.on("kube-down"):
                    for kind in self._kinds():
                        for body in self._api.all(kind):
                            await self._deliver("", kind, body)
                    self.ready.set()
                    await self._follow()
                self.restarts_total += 1
                await asyncio.sleep(5.0)
        finally:
            stop()

    async def _follow(self) -> None:
        while True:
            type_, kind, body = await self._pending.get()
            if self._faults.on("kube-down") or self._faults.die("watch-broken"):
                while not self._pending.empty():
                    self._pending.get_nowait()
                return
            await asyncio.sleep(0.05 * self._rng.random())
            self._process.step("event")
            if self._faults.on("watch-silent"):
                continue
            await self._deliver(type_, kind, body)
            if self._faults.die("watch-twice"):
                await self._deliver(type_, kind, body)

    def _kinds(self) -> list[Kind]:
        return [(_API, "GPULease"), (_API, "GPUProvider"), (_API, "HostedLease"), NAMESPACE, POD, DEPLOYMENT]

    def _heard(self, type_: str, kind: Kind, body: Json) -> None:
        if kind[0] == _API or LEASE_LABEL in (body["metadata"].get("labels") or {}):
            self._pending.put_nowait((type_, kind, body))

    async def _deliver(self, type_: str, kind: Kind, body: Json) -> None:
        if kind == (_API, "GPULease") and "tenant" in self._roles:
            await self._tenant(body=body, type=type_)
        elif kind == (_API, "GPUProvider") and "provider" in self._roles:
            await self._provider(body=body, type=type_)
        elif kind == (_API, "HostedLease") and "provider" in self._roles:
            await self._hosted(body=body, type=type_)
        elif kind[0] != _API and LEASE_LABEL in (body["metadata"].get("labels") or {}):
            await self._in_lease(labels=body["metadata"]["labels"])


__all__ = ["KubeError", "SimTransport", "SimWatcher", "sim_cluster"]
