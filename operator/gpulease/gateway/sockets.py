"""One websocket of a tenant: pings, a limit on how long a write may wait, an end with a code.

The peer's client gives up after 15 s without a ping, whatever data comes; so pings go out every 10 s. A reader that
does not take what is written within ``send_s`` is cut with code 4000, for everything that waits for it waits in our
memory. A client that has not answered for ``silent_s`` is half open and is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import WSMsgType, web

from gpulease.errors import GpuleaseError
from gpulease.gateway import answers

NORMAL = 1000
GOING_AWAY = 1001
FAILED = 4000
NOT_FOUND = 4001
CLUSTER_UNREACHABLE = 4002
TOO_SLOW = "reader too slow"
_LINGER_S = 5.0
_CLOSE_WAIT_S = 2.0
_WRITE_BUFFER_BYTES = 1 << 15
_MOST_MESSAGE_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class SocketTiming:
    """Seconds."""

    ping_s: float = 10.0
    ping_write_s: float = 5.0
    send_s: float = 20.0
    silent_s: float = 60.0


class ClientGone(GpuleaseError):
    """The tenant's side ended; nothing more can be written."""


class SlowReader(GpuleaseError):
    """A write waited longer than it may."""


def refusal(request: web.Request) -> web.Response | None:
    """Why this request cannot become a websocket, None when it can."""
    headers = request.headers
    if "upgrade" not in _tokens(headers, "Connection"):
        return answers.text(400, "Bad Request")
    if "websocket" not in _tokens(headers, "Upgrade"):
        response = answers.text(426, "Upgrade Required")
        response.headers["Upgrade"] = "websocket"
        return response
    if headers.get("Sec-WebSocket-Version") != "13":
        return answers.text(400, "Bad Request")
    origin = headers.get("Origin")
    if origin and not _same_host(origin, request.headers.get("Host", "")):
        return answers.text(403, "Forbidden")
    if not headers.get("Sec-WebSocket-Key"):
        return answers.text(400, "Bad Request")
    return None


def _tokens(headers: Any, name: str) -> set[str]:
    return {word.strip().lower() for line in headers.getall(name, ()) for word in line.split(",")}


def _same_host(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


class TenantSocket:
    """An upgraded connection. ``sent_total`` counts frames."""

    def __init__(self, request: web.Request, *, timing: SocketTiming) -> None:
        self._request = request
        self._timing = timing
        self._socket = web.WebSocketResponse(
            compress=False,
            autoping=False,
            autoclose=False,
            timeout=_CLOSE_WAIT_S,
            max_msg_size=_MOST_MESSAGE_BYTES,
            writer_limit=_WRITE_BUFFER_BYTES,
        )
        self._heard_s = 0.0
        self.sent_total = 0

    @property
    def response(self) -> web.WebSocketResponse:
        return self._socket

    async def open(self) -> None:
        """``web.HTTPException`` when the handshake is broken after all."""
        await self._socket.prepare(self._request)
        transport = self._request.transport
        if transport is not None:
            # TLS would hold half a megabyte for each reader that does not read.
            transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self._heard_s = asyncio.get_running_loop().time()

    async def send_text(self, frame: str) -> None:
        await self._sent(self._socket.send_str(frame))

    async def send_bytes(self, frame: bytes) -> None:
        await self._sent(self._socket.send_bytes(frame))

    async def _sent(self, writing: Any) -> None:
        try:
            async with asyncio.timeout(self._timing.send_s):
                await writing
        except TimeoutError:
            raise SlowReader(TOO_SLOW) from None
        except (ConnectionError, RuntimeError, aiohttp.ClientError, ssl.SSLError) as error:
            raise ClientGone(str(error)) from None
        self.sent_total += 1

    async def receive(self) -> bytes | None:
        """The next binary message, None when the client is gone. Text and control frames are not told."""
        while True:
            try:
                message = await self._socket.receive()
            except RuntimeError:
                return None
            self._heard_s = asyncio.get_running_loop().time()
            if message.type is WSMsgType.BINARY:
                return bytes(message.data)
            if message.type is WSMsgType.PING:
                with contextlib.suppress(ConnectionError, RuntimeError):
                    await self._socket.pong(message.data)
            elif message.type not in (WSMsgType.TEXT, WSMsgType.PONG):
                return None

    async def watch(self) -> None:
        """Pings until the client has been silent for too long or is gone. Something else has to ``receive``."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._timing.ping_s)
            if loop.time() - self._heard_s > self._timing.silent_s:
                raise ClientGone("no answer to pings")
            try:
                async with asyncio.timeout(self._timing.ping_write_s):
                    await self._socket.ping()
            except TimeoutError:
                continue  # the write limit is for data: whoever waits there says that the reader is too slow
            except (ConnectionError, RuntimeError) as error:
                raise ClientGone(str(error)) from None

    async def drain_input(self) -> None:
        """Reads what the client says and forgets it; ends when the client is gone."""
        while await self.receive() is not None:
            pass

    async def close(self, code: int, reason: str = "") -> None:
        """With a close frame, as far as the client still reads."""
        transport = self._request.transport
        with contextlib.suppress(TimeoutError, ConnectionError, RuntimeError):
            async with asyncio.timeout(_CLOSE_WAIT_S + 1):
                await self._socket.close(code=code, message=reason.encode())
        self._let_go(transport)

    def drop(self) -> None:
        """Ends the connection without a close frame, once what was written is gone."""
        self._let_go(self._request.transport)

    def _let_go(self, transport: asyncio.Transport | None) -> None:
        if transport is not None and not transport.is_closing():
            transport.close()
        if transport is not None:
            asyncio.get_running_loop().call_later(_LINGER_S, transport.abort)
