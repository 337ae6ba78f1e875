"""The agent's HTTP face: what the operator pulls, what Prometheus scrapes.

Asking for records after number N says that all up to N are safe with the asker; with a token set, only its holder can.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from gpulease.agent.loop import Agent
from gpulease.agent.metrics import AgentCollector
from gpulease.agent.model import ClockPort
from gpulease.agent.store import RecordStore
from gpulease.errors import StoreError

MAX_PAGE = 1000
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(agent: Agent, store: RecordStore, clock: ClockPort, *, token: str | None = None) -> web.Application:
    """``/v1/*`` needs ``Authorization: Bearer TOKEN`` where a token is set; ``/metrics`` and ``/healthz`` do not."""
    registry = CollectorRegistry()
    registry.register(AgentCollector(agent, store))
    face = _Face(agent, store, clock, registry)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token is not None and request.path.startswith("/v1/"):
            given = request.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                return _refuse(401, "this agent wants the token of its --token-file as Authorization: Bearer TOKEN")
        return await handler(request)

    app = web.Application(middlewares=[guard], client_max_size=1024)
    app.add_routes(
        [
            web.get("/v1/devices", face.devices),
            web.get("/v1/allocations", face.allocations),
            web.get("/v1/records", face.records),
            web.get("/metrics", face.metrics),
            web.get("/healthz", face.healthz),
        ]
    )
    return app


def _refuse(status: int, words: str) -> web.Response:
    return web.json_response({"error": words}, status=status)


class _Face:
    def __init__(self, agent: Agent, store: RecordStore, clock: ClockPort, registry: CollectorRegistry) -> None:
        self._agent, self._store, self._clock, self._registry = agent, store, clock, registry

    def _who(self) -> dict[str, Any]:
        return {
            "node": self._agent.policy.node,
            "boot_id": self._clock.boot_id,
            "public_key": self._store.public_key.hex(),
            "at_ms": self._agent.view.at_ms,
        }

    async def devices(self, request: web.Request) -> web.Response:
        """``known`` False: NVML did not answer at the last look; the list is empty, the devices are not gone."""
        view = self._agent.view
        devices = [
            {
                **device.to_json(),
                "xids": [{"at_ms": ms, "xid": code} for ms, code in view.recent_xids.get(device.uuid, ())],
            }
            for device in view.devices or ()
        ]
        return web.json_response(
            {
                **self._who(),
                "known": view.devices is not None,
                "problem": _problem(self._agent, "nvml"),
                "driver_version": view.driver_version,
                "devices": devices,
            }
        )

    async def allocations(self, request: web.Request) -> web.Response:
        """``known`` False: the kubelet did not answer at the last look; nothing follows from the empty list."""
        view = self._agent.view
        listed = [
            {
                "namespace": a.namespace,
                "pod": a.pod,
                "container": a.container,
                "device_uuid": a.device_uuid,
                "share": a.share,
                "started_ms": view.started_ms.get(a),
                "contested": a in view.contested,
            }
            for a in sorted(view.allocations or ())
        ]
        return web.json_response(
            {
                **self._who(),
                "known": view.allocations is not None,
                "problem": _problem(self._agent, "kubelet"),
                "allocations": listed,
            }
        )

    async def records(self, request: web.Request) -> web.Response:
        """A page of records after ``after``; ``first`` is the oldest one kept and ``head`` the newest."""
        try:
            after = int(request.query.get("after", "0"))
            limit = int(request.query.get("limit", str(MAX_PAGE)))
        except ValueError:
            return _refuse(400, "after and limit are whole numbers")
        if not 0 <= after < 2**53 or not 1 <= limit <= MAX_PAGE:
            return _refuse(400, f"after is at least 0, limit between 1 and {MAX_PAGE}")
        try:
            await asyncio.to_thread(self._store.take, after)
            rows = await asyncio.to_thread(self._store.read, after, limit)
            first = await asyncio.to_thread(self._store.first_seq)
        except StoreError as error:
            return _refuse(503, str(error))
        head = {**self._who(), "first": first, "head": self._store.head.seq, "next": rows[-1][0] if rows else after}
        # The stored text goes out as it is: it is what was hashed and signed.
        text = json.dumps(head)[:-1] + ', "records": [' + ",".join(body for _, body in rows) + "]}"
        return web.Response(text=text, content_type="application/json")

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(self, request: web.Request) -> web.Response:
        """200 while records can be written: a silent kubelet or NVML is not healed by a restart of the agent."""
        view = self._agent.view
        sources = {name: source.problem or "ok" for name, source in sorted(view.sources.items())}
        broken = _problem(self._agent, "store") is not None
        return web.json_response({"ok": not broken, "sources": sources}, status=503 if broken else 200)


def _problem(agent: Agent, source: str) -> str | None:
    found = agent.view.sources.get(source)
    return found.problem if found is not None else None
