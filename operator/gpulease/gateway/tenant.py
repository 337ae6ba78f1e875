"""The tenant's side of the streams: logs, events and a shell of a lease (gateway reference §2).

Gateways of the peer end logs and shells without a close frame; both ends are ends here. A close code that says what
is wrong is an error with a sentence, never an empty answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp import WSMsgType

from gpulease.errors import GatewayRefused, GatewayUnreachable
from gpulease.gateway.client import Caller, lease_path
from gpulease.ids import LeaseId

_SILENT_S = 45.0
"""Gateways ping every 10 s."""
_STDIN_BYTES = 4096
_WORDS = {
    4000: "the gateway could not do it",
    4001: "the lease, its workload or its pod is not there (yet)",
    4002: "the gateway cannot reach its cluster; try again in a moment",
}


@dataclass(frozen=True, slots=True)
class LogLine:
    pod: str
    message: str


async def logs(
    caller: Caller,
    lease: LeaseId,
    *,
    follow: bool = False,
    tail_lines: int | None = None,
    services: Sequence[str] = (),
) -> AsyncGenerator[LogLine, None]:
    """Lines of the services' pods, all services when none is named."""
    async for body in _bodies(caller, lease, "logs", "logs", follow, tail_lines, services):
        yield LogLine(str(body.get("name", "")), str(body.get("message", "")))


async def events(
    caller: Caller, lease: LeaseId, *, follow: bool = False, services: Sequence[str] = ()
) -> AsyncGenerator[Mapping[str, Any], None]:
    """Kubernetes events as the gateway tells them: type, reason, note, object."""
    async for body in _bodies(caller, lease, "kubeevents", "events", follow, None, services):
        yield body


async def _bodies(
    caller: Caller,
    lease: LeaseId,
    route: str,
    scope: str,
    follow: bool,
    tail_lines: int | None,
    services: Sequence[str],
) -> AsyncGenerator[Mapping[str, Any], None]:
    query = {"follow": "true" if follow else "false"}
    query |= {} if tail_lines is None else {"tail": str(tail_lines)}
    query |= {"service": ",".join(services)} if services else {}
    async with caller.stream(f"{lease_path(lease)}/{route}?{urlencode(query)}", scope=scope) as socket:
        while (message := await _next(socket)) is not None:
            try:
                body = json.loads(message)
            except ValueError:
                raise GatewayUnreachable("the gateway sent a frame that is not JSON") from None
            if not isinstance(body, dict):
                raise GatewayUnreachable("the gateway sent a frame that is no object")
            yield body


async def _next(socket: aiohttp.ClientWebSocketResponse) -> str | bytes | None:
    """The next data frame, None at the end; an end with a code of its own is ``GatewayRefused``."""
    while True:
        try:
            message = await socket.receive(timeout=_SILENT_S)
        except TimeoutError:
            raise GatewayUnreachable(f"the gateway has been silent for {_SILENT_S:.0f} s") from None
        if message.type is WSMsgType.PING:
            await socket.pong(message.data)
        elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            data: str | bytes = message.data
            return data
        elif message.type is WSMsgType.ERROR:
            raise GatewayUnreachable(f"the connection broke: {message.data}")
        elif message.type is not WSMsgType.PONG:
            # The library forgets the code of a close frame when its own answer no longer gets out.
            code = int(message.data) if message.type is WSMsgType.CLOSE else socket.close_code or 1006
            if code >= 4000 or code in (1001, 1002, 1008, 1009, 1011, 1012, 1013):
                said = str(message.extra or "") if message.type is WSMsgType.CLOSE else ""
                raise GatewayRefused(code, said or _WORDS.get(code, "the gateway ended the stream"))
            return None


STDOUT, STDERR = 100, 101
_RESULT, _FAILURE, _STDIN, _RESIZE = 102, 103, 104, 105


class Shell:
    """A running command. ``exit_code`` is None until ``output`` has ended."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.exit_code: int | None = None

    async def write(self, data: bytes) -> None:
        for begin in range(0, len(data), _STDIN_BYTES):
            await self._send(bytes([_STDIN]) + data[begin : begin + _STDIN_BYTES])

    async def resize(self, columns: int, rows: int) -> None:
        await self._send(bytes([_RESIZE]) + columns.to_bytes(2, "big") + rows.to_bytes(2, "big"))

    async def _send(self, frame: bytes) -> None:
        try:
            await self._socket.send_bytes(frame)
        except (aiohttp.ClientError, OSError) as error:
            raise GatewayUnreachable(f"the shell's connection broke: {error}") from None

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """(``STDOUT`` or ``STDERR``, bytes) until the command ends.

        ``GatewayRefused`` when it never ran or failed, ``GatewayUnreachable`` when its end was lost.
        """
        while (frame := await _next(self._socket)) is not None:
            if not isinstance(frame, bytes) or not frame:
                continue
            code, payload = frame[0], frame[1:]
            if code in (STDOUT, STDERR):
                yield code, payload
            elif code == _RESULT:
                self.exit_code = _exit_code(payload)
                return
            else:
                raise GatewayRefused(code, "the provider could not run the command")
        raise GatewayUnreachable("the shell ended without a result; whether the command did is unknown")


def _exit_code(payload: bytes) -> int:
    try:
        body = json.loads(payload)
        code, message = int(body.get("exit_code", 0)), str(body.get("message") or "")
    except (ValueError, AttributeError, TypeError):
        raise GatewayUnreachable("the shell's result cannot be read") from None
    if message:
        raise GatewayRefused(_RESULT, message)
    return code


@asynccontextmanager
async def shell(
    caller: Caller,
    lease: LeaseId,
    *,
    service: str,
    command: Sequence[str],
    tty: bool = False,
    stdin: bool = False,
    pod_index: int = 0,
) -> AsyncIterator[Shell]:
    """Start a command in the service's pod of that index; a terminal has a stdin."""
    words = {f"cmd{number}": word for number, word in enumerate(command)}
    flags = {"podIndex": str(pod_index), "service": service, "stdin": str(int(stdin or tty)), "tty": str(int(tty))}
    query = urlencode(words | flags, quote_via=quote)
    async with caller.stream(f"{lease_path(lease)}/shell?{query}", scope="shell") as socket:
        yield Shell(socket)


async def run(caller: Caller, lease: LeaseId, *, service: str, command: Sequence[str], timeout_s: float) -> RunResult:
    """A command without stdin, to its end; ``GatewayUnreachable`` when it takes longer."""
    kept = {STDOUT: bytearray(), STDERR: bytearray()}
    try:
        async with (
            asyncio.timeout(timeout_s),
            shell(caller, lease, service=service, command=command) as session,
        ):
            async for stream, data in session.output():
                kept[stream] += data
    except TimeoutError:
        raise GatewayUnreachable(f"the command did not end within {timeout_s:.0f} s") from None
    return RunResult(session.exit_code or 0, bytes(kept[STDOUT]), bytes(kept[STDERR]))


@dataclass(frozen=True, slots=True)
class RunResult:
    exit_code: int
    stdout: bytes
    stderr: bytes
