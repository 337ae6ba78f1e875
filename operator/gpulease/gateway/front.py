"""TLS in front of the gRPC server, with the same door as REST.

gRPC for Python can demand a client certificate or not ask for one; tenants may come with either a certificate or a
token. So TLS ends here, and each connection is carried to the gRPC server on this machine; the port that it comes
from there tells whose certificate it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from gpulease.gateway.guard import Guard

_CHUNK_BYTES = 1 << 16
_CONNECT_S = 5.0


class GrpcFront:
    """Carries connections to ``127.0.0.1:inner_port``. Both ways wait for the slower side."""

    def __init__(self, inner_port: int, guard: Guard) -> None:
        self._inner_port = inner_port
        self._guard = guard
        self._certificates: dict[int, bytes] = {}
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int, context: Any, *, handshake_s: float) -> None:
        loop = asyncio.get_running_loop()

        def build() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=_CHUNK_BYTES), self._carry)

        self._server = await loop.create_server(
            self._guard.protocols(build, head=False),
            host,
            port,
            ssl=context,
            ssl_handshake_timeout=handshake_s,
            ssl_shutdown_timeout=2.0,
            backlog=256,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    def certificate_of(self, peer: str) -> bytes | None:
        """``peer`` as gRPC names it, ``ipv4:127.0.0.1:PORT``; None for a connection without a client certificate."""
        text = peer.rpartition(":")[2]
        return self._certificates.get(int(text)) if text.isdecimal() else None

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        secured = writer.get_extra_info("ssl_object")
        der = secured.getpeercert(binary_form=True) if secured is not None else None
        try:
            async with asyncio.timeout(_CONNECT_S):
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._inner_port)
        except (OSError, TimeoutError):
            writer.transport.abort()
            return
        own_port = int(inner_writer.get_extra_info("sockname")[1])
        if der:
            self._certificates[own_port] = der
        try:
            both = (_copy(reader, inner_writer), _copy(inner_reader, writer))
            tasks = [asyncio.create_task(way) for way in both]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._certificates.pop(own_port, None)
            for stream in (inner_writer, writer):
                with contextlib.suppress(OSError, ssl.SSLError, RuntimeError):
                    stream.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
