"""A command in a container: the API server's exec protocol over a websocket.

Binary frames whose first byte names the channel. Version 5 can end stdin; version 4, which older API servers have,
can not. The command's end arrives as a ``Status`` object on the error channel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from gpulease.errors import KubeUnreachable

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
PROTOCOLS = (V5, V4)
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
_MOST_STATUS_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ExecEnd:
    """``code`` is the command's exit code, None when it never ran or was lost; then ``message`` says why."""

    code: int | None
    message: str = ""


class ExecStream:
    """One running command. ``read`` is called by one task, the writing methods by another."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, what: str) -> None:
        self._socket = socket
        self._what = what

    async def read(self) -> tuple[int, bytes] | ExecEnd:
        """``(STDOUT or STDERR, bytes)``, at last how it ended; ``KubeUnreachable`` when the connection broke."""
        status = bytearray()
        while True:
            try:
                message = await self._socket.receive()
            except (aiohttp.ClientError, OSError) as error:
                raise KubeUnreachable(f"{self._what}: the connection broke ({error})") from error
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                data = message.data.encode() if isinstance(message.data, str) else bytes(message.data)
                if len(data) < 2:
                    continue
                if data[0] in (STDOUT, STDERR):
                    return data[0], data[1:]
                if data[0] == ERROR:
                    status += data[1:]
                    end = _end(status)
                    if end is not None:
                        return end
                    if len(status) > _MOST_STATUS_BYTES:
                        raise KubeUnreachable(f"{self._what}: the command's status is too large")
            else:
                raise KubeUnreachable(f"{self._what}: the connection ended before the command did")

    async def write(self, data: bytes) -> None:
        """To stdin; waits while the other side does not read."""
        await self._send(bytes([STDIN]) + data)

    async def resize(self, width: int, height: int) -> None:
        """Columns and rows of the terminal."""
        await self._send(bytes([RESIZE]) + json.dumps({"Width": width, "Height": height}).encode())

    async def end_stdin(self) -> bool:
        """False when this API server has no way to say it."""
        if self._socket.protocol != V5:
            return False
        await self._send(bytes([CLOSE, STDIN]))
        return True

    async def _send(self, frame: bytes) -> None:
        try:
            await self._socket.send_bytes(frame)
        except (aiohttp.ClientError, OSError) as error:
            raise KubeUnreachable(f"{self._what}: the connection broke ({error})") from error

    async def close(self) -> None:
        await self._socket.close()


def _end(raw: bytes | bytearray) -> ExecEnd | None:
    """None: more of it is to come."""
    try:
        status = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(status, dict):
        return ExecEnd(None, "the command's status is no object")
    if status.get("status") == "Success":
        return ExecEnd(0)
    return ExecEnd(exit_code(status), str(status.get("message") or "the command failed"))


def exit_code(status: Mapping[str, Any]) -> int | None:
    """Of a ``Status`` that says NonZeroExitCode."""
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else ():
        if isinstance(cause, dict) and cause.get("reason") == "ExitCode":
            text = str(cause.get("message", ""))
            return int(text) if text.isascii() and text.removeprefix("-").isdecimal() and len(text) < 12 else None
    return None
