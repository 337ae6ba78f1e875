"""The gateway as a process: certificate from its Secret, listeners, loops that keep both current.

A connection that sends no whole request head in time is cut; so is every one above the limit. Health and metrics are
on a plain port of their own, for the cluster only.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiohttp import web

from gpulease.errors import ChainError, ConfigError, KubeError, Unreachable
from gpulease.gateway.app import Gateway
from gpulease.gateway.certs import fingerprint
from gpulease.gateway.ports import ChainPort, ClusterPort
from gpulease.gateway.tls import TlsDoor
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


def certificate_secret(provider_object: str) -> str:
    """Where the operator puts the provider's certificate: ``tls.crt`` and ``tls.key``."""
    return f"{provider_object}-gateway-cert"


@dataclass(slots=True)
class GatewayServer:
    """``start`` waits for the certificate; ``port`` and ``metrics_port`` are the real ones afterwards."""

    gateway: Gateway
    chain: ChainPort
    cluster: ClusterPort
    secret: Ref
    host: str = "127.0.0.1"
    port: int = 8443
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    timing: Timing = field(default_factory=Timing)
    _door: TlsDoor | None = None
    _held: tuple[bytes, bytes, tuple[bytes, ...]] = (b"", b"", ())
    _runners: list[web.AppRunner] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _loop: asyncio.Task[None] | None = None
    connections: int = 0

    async def start(self) -> None:
        await self._serve_metrics()
        cert, key = await self._first_certificate()
        self._door = TlsDoor.open(cert, key)
        self._held = (cert, key, ())
        runner = web.AppRunner(
            self.gateway.app(), access_log=None, keepalive_timeout=self.timing.keepalive_s, handle_signals=False
        )
        await runner.setup()
        self._runners.append(runner)
        assert runner.server is not None
        self._server = await asyncio.get_running_loop().create_server(
            self._guarded(runner.server),
            self.host,
            self.port,
            ssl=self._door.listening,
            ssl_handshake_timeout=self.timing.handshake_s,
            ssl_shutdown_timeout=2.0,
            backlog=256,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._loop = asyncio.create_task(self._keep_current())
        log.info("gateway_listening", host=self.host, port=self.port, certificate=fingerprint(cert))

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        if self._server is not None:
            self._server.close()
        for runner in self._runners:
            await runner.cleanup()

    @property
    def ready(self) -> bool:
        return self._server is not None

    # --- connections ---------------------------------------------------------------------------------------------

    def _guarded(self, make: Callable[[], Any]) -> Callable[[], asyncio.BaseProtocol]:
        """Protocols of aiohttp with a limit on their number and on the time to their first request."""

        def build() -> asyncio.BaseProtocol:
            return _Guarded(make(), self) if self.connections < self.timing.connections_at_once else _Closed()

        return build

    # --- certificate ---------------------------------------------------------------------------------------------

    async def _first_certificate(self) -> tuple[bytes, bytes]:
        told = False
        while True:
            found = await self._read_certificate()
            if found is not None:
                return found
            if not told:
                log.warning("waiting_for_certificate", secret=str(self.secret), hint="the operator makes it")
                told = True
            await asyncio.sleep(min(self.timing.certificate_poll_s, 1.0))

    async def _read_certificate(self) -> tuple[bytes, bytes] | None:
        try:
            body = await self.cluster.get(self.secret)
        except (Unreachable, KubeError) as error:
            log.warning("certificate_unread", secret=str(self.secret), why=str(error))
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
            pair = await self._read_certificate() or self._held[:2]
            wanted = (*pair, await self._anchors())
            if wanted == self._held:
                continue
            assert self._door is not None
            try:
                self._door.change(wanted[0], wanted[1], client_anchors=wanted[2])
            except ConfigError as error:
                log.error("certificate_unusable", secret=str(self.secret), why=str(error))
                continue
            if wanted[0] != self._held[0]:
                log.info("certificate_changed", certificate=fingerprint(wanted[0]))
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
            "# HELP gpulease_gateway_connections Open connections.",
            "# TYPE gpulease_gateway_connections gauge",
            f"gpulease_gateway_connections {self.connections}",
            "# HELP gpulease_gateway_requests_in_flight Requests being answered.",
            "# TYPE gpulease_gateway_requests_in_flight gauge",
            f"gpulease_gateway_requests_in_flight {self.gateway.in_flight}",
        ]
        return web.Response(body="\n".join([*lines, ""]).encode(), content_type="text/plain", charset="utf-8")


class _Guarded(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, counts the connection, and cuts it if no request head comes."""

    def __init__(self, inner: Any, server: GatewayServer) -> None:
        self._inner = inner
        self._server = server
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        self._inner.eof_received()
        return None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._server.connections += 1
        self._timer = asyncio.get_running_loop().call_later(self._server.timing.head_s, self._check, transport)
        self._inner.connection_made(transport)

    def _check(self, transport: asyncio.Transport) -> None:
        if transport not in self._server.gateway.seen:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections -= 1
        if self._timer is not None:
            self._timer.cancel()
        self._inner.connection_lost(exc)


class _Closed(asyncio.Protocol):
    """For connections above the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
