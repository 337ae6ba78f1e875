"""A command in a tenant's container, over a websocket (gateway reference §2).

Binary frames, first byte the code. Both directions wait for the slower side; nothing is queued. The tenant's words
and the command's output are never logged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum

from gpulease.errors import KubeError, KubeNotFound, KubeUnreachable
from gpulease.gateway.answers import encoded
from gpulease.gateway.desk import Desk
from gpulease.gateway.ports import CommandPort
from gpulease.gateway.query import ShellQuery
from gpulease.gateway.report import workload_name
from gpulease.gateway.sockets import TenantSocket
from gpulease.kube.exec import STDOUT, ExecEnd
from gpulease.kube.refs import Json

_EXEC = "remote command execute error"
_NOT_THERE = ("no such file or directory", "executable file not found")
_MOST_STDIN_BYTES = 1 << 16


class Code(IntEnum):
    """First byte of a frame: the first four from the server, the last two from the client."""

    STDOUT = 100
    STDERR = 101
    RESULT = 102
    FAILURE = 103
    STDIN = 104
    RESIZE = 105


@dataclass(frozen=True, slots=True)
class Result:
    """``message`` with exit code 0: the command never ran."""

    exit_code: int = 0
    message: str = ""

    def frame(self) -> bytes:
        body = {"exit_code": self.exit_code} | ({"message": self.message} if self.message else {})
        return bytes([Code.RESULT]) + encoded(body).encode() + b"\n"


FAILED = bytes([Code.FAILURE])


def size_of(payload: bytes) -> tuple[int, int] | None:
    """(columns, rows) of a resize frame's payload, None when it is too short."""
    if len(payload) < 4:
        return None
    return int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big")


async def choose_pod(desk: Desk, namespace: str, query: ShellQuery) -> str | Result:
    """The pod's name, or the result that says why there is none. ``KubeUnreachable`` and ``KubeError`` pass."""
    running = await desk.running(namespace)
    if not running.workloads:
        return Result()  # what the peer says of a lease that it does not know
    services = {workload_name(w) for w in running.workloads}
    if query.service not in services:
        return Result(message="kube: no service for that lease")
    pods = running.of(query.service)
    if not any(map(_ready, pods)):
        return Result(message=f"{_EXEC}: service with that name is not running")
    if query.pod_index >= len(pods):
        return Result(message=f"{_EXEC}: pod index out of range: valid range is [0, {len(pods) - 1}]")
    pod = pods[query.pod_index]
    if not (_ready(pod) or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")):
        return Result(message=f"{_EXEC}: pod with that index is not running")
    return str(pod["metadata"]["name"])


def _ready(pod: Json) -> bool:
    status = pod.get("status") or {}
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())


def ended(end: ExecEnd) -> bytes:
    """The last frame of a command that the API server took."""
    if end.code is not None:
        return Result(end.code).frame()
    if any(words in end.message for words in _NOT_THERE):
        return Result(message=f"{_EXEC}: command could not be executed because it does not exist").frame()
    return FAILED


async def serve(desk: Desk, namespace: str, query: ShellQuery, socket: TenantSocket) -> str:
    """Run the command until it or the tenant ends; the last frame is its result. Returns how it ended, for the log."""
    try:
        chosen = await choose_pod(desk, namespace, query)
        if isinstance(chosen, Result):
            await socket.send_bytes(chosen.frame())
            return "not run"
        command = await desk.cluster.exec(
            namespace,
            chosen,
            container=query.service,
            command=query.command,
            stdin=query.stdin,
            tty=query.tty,
        )
    except KubeNotFound:
        await socket.send_bytes(Result(message=f"{_EXEC}: pod with that index is not running").frame())
        return "not run"
    except (KubeUnreachable, KubeError):
        await socket.send_bytes(FAILED)
        return "failed"
    return await _converse(command, query, socket)


async def _converse(command: CommandPort, query: ShellQuery, socket: TenantSocket) -> str:
    speaking = asyncio.create_task(_output(command, socket.send_bytes))
    hearing = asyncio.create_task(_input(command, query, socket))
    try:
        done, _ = await asyncio.wait({speaking, hearing}, return_when=asyncio.FIRST_COMPLETED)
        if speaking not in done:
            return "left"
        await socket.send_bytes(speaking.result())
        return "ended"
    finally:
        for task in (speaking, hearing):
            task.cancel()
        await asyncio.gather(speaking, hearing, return_exceptions=True)
        with contextlib.suppress(KubeUnreachable):
            await command.close()


async def _output(command: CommandPort, send: Callable[[bytes], Awaitable[None]]) -> bytes:
    """Copies until the command ends; its last frame."""
    while True:
        try:
            said = await command.read()
        except KubeUnreachable:
            return FAILED
        if isinstance(said, ExecEnd):
            return ended(said)
        channel, data = said
        await send(bytes([Code.STDOUT if channel == STDOUT else Code.STDERR]) + data)


async def _input(command: CommandPort, query: ShellQuery, socket: TenantSocket) -> None:
    """Ends when the tenant is gone. After a frame that makes no sense nothing more is passed on."""
    listening = True
    while (frame := await socket.receive()) is not None:
        if not frame or not listening:
            continue
        try:
            listening = await _pass_on(command, query, frame)
        except KubeUnreachable:
            listening = False  # the reading side says how the command ended


async def _pass_on(command: CommandPort, query: ShellQuery, frame: bytes) -> bool:
    code, payload = frame[0], frame[1:]
    if code == Code.STDIN:
        if query.stdin and payload:
            for begin in range(0, len(payload), _MOST_STDIN_BYTES):
                await command.write(payload[begin : begin + _MOST_STDIN_BYTES])
        return True
    if code != Code.RESIZE:
        return False
    size = size_of(payload)
    if size is None:
        return False
    if query.tty:
        await command.resize(*size)
    return True
