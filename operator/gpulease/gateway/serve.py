"""The gateway as a process: certificate from its Secret, listeners, loops that keep both current.

REST and gRPC are behind the same TLS door. Health and metrics are on a plain port of their own, for the cluster only.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiohttp import web

from gpulease.errors import ChainError, ConfigError, KubeError, Unreachable
from gpulease.gateway import rpc
from gpulease.gateway.app import Gateway
from gpulease.gateway.certs import fingerprint
from gpulease.gateway.front import GrpcFront
from gpulease.gateway.guard import Guard
from gpulease.gateway.ports import ChainPort, ClusterPort
from gpulease.gateway.tls import ANY_CLIENT, TlsDoor, small_buffers
from gpulease.kube.refs import Ref

log = structlog.get_logger(__name__)
_MOST_OWNERS = 500


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds."""

    certificate_poll_s: float = 10.0
    head_s: float = 10.0
    keepalive_s: float = 60.0
    handshake_s: float = 10.0
    connections_at_once: int = 1000
    status_poll_s: float = 5.0
    grace_s: float = 2.0


def certificate_secret(provider_object: str) -> str:
    """Where the operator puts the provider's certificate: ``tls.crt`` and ``tls.key``."""
    return f"{provider_object}-gateway-cert"


@dataclass(slots=True)
class GatewayServer:
    """``start`` waits for the certificate; the ports are the real ones afterwards. ``grpc`` None: no gRPC."""

    gateway: Gateway
    chain: ChainPort
    cluster: ClusterPort
    secret: Ref
    host: str = "127.0.0.1"
    port: int = 8443
    grpc: tuple[str, int] | None = None
    grpc_port: int = 0
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    timing: Timing = field(default_factory=Timing)
    now_s: Callable[[], float] = time.time
    screen: rpc.Screen | None = None
    public_secret: Ref | None = None
    public_host: str = ""
    """A certificate of a public authority, and the host name it is for: for clients that know of no chain."""
    _doors: list[TlsDoor] = field(default_factory=list)
    _held: tuple[tuple[bytes, bytes], tuple[bytes, bytes] | None, tuple[bytes, ...]] = ((b"", b""), None, ())
    _runners: list[web.AppRunner] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _loop: asyncio.Task[None] | None = None
    _guard: Guard | None = None
    _front: GrpcFront | None = None
    _grpc: Any = None

    async def start(self) -> None:
        small_buffers()
        await self._serve_metrics()
        pair = await self._first_certificate()
        public = await self._read_pair(self.public_secret) if self.public_secret is not None else None
        self._held = (pair, public, ())
        rest = self._open_door()
        self._guard = Guard(
            self.timing.connections_at_once, self.timing.head_s, self.gateway.auth.vet, seen=self.gateway.seen
        )
        runner = web.AppRunner(
            self.gateway.app(),
            access_log=None,
            keepalive_timeout=self.timing.keepalive_s,
            handle_signals=False,
            shutdown_timeout=self.timing.grace_s,
        )
        await runner.setup()
        self._runners.append(runner)
        assert runner.server is not None
        self._server = await asyncio.get_running_loop().create_server(
            self._guard.protocols(runner.server),
            self.host,
            self.port,
            ssl=rest.listening,
            ssl_handshake_timeout=self.timing.handshake_s,
            ssl_shutdown_timeout=2.0,
            backlog=256,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        if self.grpc is not None:
            await self._serve_grpc(*self.grpc)
        self._loop = asyncio.create_task(self._keep_current())
        log.info(
            "gateway_listening", host=self.host, port=self.port, grpc=self.grpc_port, certificate=fingerprint(pair[0])
        )

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        if self._server is not None:
            self._server.close()
        if self._front is not None:
            await self._front.stop()
            await self._grpc.stop(self.timing.grace_s)
        for runner in self._runners:
            await runner.cleanup()

    @property
    def ready(self) -> bool:
        return self._server is not None

    @property
    def connections(self) -> int:
        return self._guard.connections if self._guard is not None else 0

    def _open_door(self, *, alpn: Sequence[str] = ()) -> TlsDoor:
        pair, public, anchors = self._held
        door = TlsDoor(*pair, public_host=self.public_host, alpn=alpn)
        door.change(*pair, client_anchors=anchors, public=public)
        self._doors.append(door)
        return door

    async def _serve_grpc(self, host: str, port: int) -> None:
        assert self._guard is not None
        front: GrpcFront | None = None
        self._grpc, healthy, names = rpc.server(
            self.gateway,
            lambda peer: front.certificate_of(peer) if front is not None else None,
            now_s=self.now_s,
            poll_s=self.timing.status_poll_s,
            screen=self.screen,
        )
        inner = self._grpc.add_insecure_port("127.0.0.1:0")
        await self._grpc.start()
        await rpc.set_serving(healthy, names, True)
        front = GrpcFront(inner, self._guard)
        door = self._open_door(alpn=("h2",))
        await front.start(host, port, door.listening, handshake_s=self.timing.handshake_s)
        self._front = front
        self.grpc_port = front.port

    # --- certificate ---------------------------------------------------------------------------------------------

    async def _first_certificate(self) -> tuple[bytes, bytes]:
        told = False
        while True:
            found = await self._read_pair(self.secret)
            if found is not None:
                return found
            if not told:
                log.warning("waiting_for_certificate", secret=str(self.secret), hint="the operator makes it")
                told = True
            await asyncio.sleep(min(self.timing.certificate_poll_s, 1.0))

    async def _read_pair(self, secret: Ref) -> tuple[bytes, bytes] | None:
        try:
            body = await self.cluster.get(secret)
        except (Unreachable, KubeError) as error:
            log.warning("certificate_unread", secret=str(secret), why=str(error))
            return None
        data = (body or {}).get("data") or {}
        try:
            pair = tuple(base64.b64decode(data[name]) for name in ("tls.crt", "tls.key"))
        except (KeyError, ValueError):
            return None
        return pair[0], pair[1]

    async def _keep_current(self) -> None:
        while True:
            await asyncio.sleep(self.timing.certificate_poll_s)
            pair = await self._read_pair(self.secret) or self._held[0]
            public = None
            if self.public_secret is not None:
                public = await self._read_pair(self.public_secret) or self._held[1]
            wanted = (pair, public, () if ANY_CLIENT else await self._anchors())
            if wanted == self._held:
                continue
            try:
                for door in self._doors:
                    door.change(*pair, client_anchors=wanted[2], public=public)
            except ConfigError as error:
                log.error("certificate_unusable", secret=str(self.secret), why=str(error))
                continue
            if pair != self._held[0]:
                log.info("certificate_changed", certificate=fingerprint(pair[0]))
            self._held = wanted

    async def _anchors(self) -> tuple[bytes, ...]:
        """Valid certificates of the tenants with leases here; the ones held when the chain does not answer."""
        found: list[bytes] = []
        try:
            leases = await self.chain.leases(provider=self.gateway.identity.address, state="active")
            for owner in sorted({lease.id.owner for lease in leases})[:_MOST_OWNERS]:
                found.extend(c.cert_pem for c in await self.chain.certificates(owner, state="valid"))
        except (Unreachable, ChainError) as error:
            log.warning("client_certificates_unread", why=str(error))
            return self._held[2]
        return tuple(found)

    # --- health and metrics --------------------------------------------------------------------------------------

    async def _serve_metrics(self) -> None:
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, self.metrics_host, self.metrics_port)
        await site.start()
        self.metrics_port = runner.addresses[0][1]

    async def _healthz(self, _: web.Request) -> web.Response:
        if self.ready:
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"waiting for {self.secret}\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        lines = [
            "# HELP gpulease_gateway_requests_total Answers by route and status.",
            "# TYPE gpulease_gateway_requests_total counter",
        ]
        for (route, status), count in sorted(self.gateway.requests_total.items()):
            lines.append(f'gpulease_gateway_requests_total{{route="{route}",status="{status}"}} {count}')
        lines += [
            "# HELP gpulease_gateway_streams_cut_total Streams ended early by kind and reason.",
            "# TYPE gpulease_gateway_streams_cut_total counter",
        ]
        for reason, count in sorted(self.gateway.streams.cut_total.items()):
            lines.append(f'gpulease_gateway_streams_cut_total{{reason="{reason}"}} {count}')
        lines += [
            "# HELP gpulease_gateway_connections Open connections.",
            "# TYPE gpulease_gateway_connections gauge",
            f"gpulease_gateway_connections {self.connections}",
            "# HELP gpulease_gateway_streams Open streams.",
            "# TYPE gpulease_gateway_streams gauge",
            f"gpulease_gateway_streams {self.gateway.streams.open_by_lease.total()}",
            "# HELP gpulease_gateway_requests_in_flight Requests being answered.",
            "# TYPE gpulease_gateway_requests_in_flight gauge",
            f"gpulease_gateway_requests_in_flight {self.gateway.in_flight}",
        ]
        return web.Response(body="\n".join([*lines, ""]).encode(), content_type="text/plain", charset="utf-8")
