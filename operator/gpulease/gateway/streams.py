"""The websocket routes: how many there may be, what runs on each, with which code it ends (gateway reference §2).

Logs and events end with a close frame, where the peer lets go of the connection; a shell ends as the peer's does,
without one, for its clients take the result frame for the end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
from aiohttp import web

from gpulease.errors import GpuleaseError, KubeError, KubeNotFound, KubeUnreachable
from gpulease.gateway import answers, kubeevents, logs, shell, sockets
from gpulease.gateway.desk import Desk
from gpulease.gateway.logs import FollowTiming, NoPods
from gpulease.gateway.query import ShellQuery, StreamQuery
from gpulease.gateway.sockets import ClientGone, SlowReader, SocketTiming, TenantSocket
from gpulease.ids import LeaseId
from gpulease.workload.names import lease_namespace

log = structlog.get_logger(__name__)
_Work = Callable[[TenantSocket], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """A follower costs about 0.3 MB here and a connection to the API server."""

    at_once: int = 512
    at_once_per_lease: int = 256
    socket: SocketTiming = field(default_factory=SocketTiming)
    follow: FollowTiming = field(default_factory=FollowTiming)


class TooManyStreams(GpuleaseError):
    """One more would be above a limit."""


class Streams:
    """``open`` are the websockets, ``open_by_lease`` counts all streams, ``cut_total`` those ended early, by reason."""

    def __init__(self, desk: Desk, limits: StreamLimits) -> None:
        self._desk = desk
        self._limits = limits
        self.open: set[TenantSocket] = set()
        self.open_by_lease: Counter[LeaseId | None] = Counter()
        self.cut_total: Counter[str] = Counter()

    async def logs(
        self, request: web.Request, lease: LeaseId, query: StreamQuery, allowed: frozenset[str] | None, opened: _Opened
    ) -> web.StreamResponse:
        async def work(socket: TenantSocket) -> None:
            async def send(pod: str, line: str) -> None:
                await socket.send_text(answers.encoded({"name": pod, "message": line}) + "\n")

            await logs.relay(
                self._desk,
                lease_namespace(lease),
                send,
                services=chosen(query, allowed),
                follow=query.follow,
                tail_lines=query.tail_lines,
                timing=self._limits.follow,
            )

        return await self._serve(request, lease, "logs", work, opened)

    async def events(
        self, request: web.Request, lease: LeaseId, query: StreamQuery, allowed: frozenset[str] | None, opened: _Opened
    ) -> web.StreamResponse:
        async def work(socket: TenantSocket) -> None:
            await kubeevents.relay(
                self._desk,
                lease_namespace(lease),
                lambda body: socket.send_text(answers.encoded(body) + "\n"),
                services=chosen(query, allowed),
                follow=query.follow,
                poll_s=self._limits.follow.poll_s,
            )

        return await self._serve(request, lease, "events", work, opened)

    async def shell(
        self, request: web.Request, lease: LeaseId, query: ShellQuery, opened: _Opened
    ) -> web.StreamResponse:
        async def work(socket: TenantSocket) -> None:
            how = await shell.serve(self._desk, lease_namespace(lease), query, socket)
            log.info("shell_ended", lease=str(lease), service=query.service, how=how)

        log.info("shell_asked", lease=str(lease), service=query.service, pod=query.pod_index)
        return await self._serve(request, lease, "shell", work, opened, is_shell=True)

    async def close(self) -> None:
        """End all of them; for the process's end."""
        await asyncio.gather(*(socket.close(sockets.GOING_AWAY) for socket in self.open), return_exceptions=True)

    async def _serve(
        self,
        request: web.Request,
        lease: LeaseId,
        kind: str,
        work: _Work,
        opened: _Opened,
        *,
        is_shell: bool = False,
    ) -> web.StreamResponse:
        refused = sockets.refusal(request)
        if refused is not None:
            return refused
        try:
            with self.slot(lease):
                socket = TenantSocket(request, timing=self._limits.socket)
                await socket.open()
                opened()
                self.open.add(socket)
                try:
                    await self._until_end(socket, kind, work, is_shell=is_shell)
                finally:
                    self.open.discard(socket)
                return socket.response
        except TooManyStreams as error:
            return answers.text(503, str(error))

    @contextmanager
    def slot(self, lease: LeaseId | None) -> Iterator[None]:
        """Room for one stream, whatever its protocol; ``TooManyStreams`` when there is none. None: of no lease."""
        most = self._limits.at_once_per_lease
        if self.open_by_lease.total() >= self._limits.at_once or self.open_by_lease[lease] >= most:
            raise TooManyStreams("too many streams at once; end one or try again in a moment")
        self.open_by_lease[lease] += 1
        try:
            yield
        finally:
            self.open_by_lease[lease] -= 1
            if not self.open_by_lease[lease]:
                del self.open_by_lease[lease]

    async def _until_end(self, socket: TenantSocket, kind: str, work: _Work, *, is_shell: bool) -> None:
        working = asyncio.ensure_future(work(socket))
        tasks = [working, asyncio.create_task(socket.watch())]
        if not is_shell:  # which listens itself
            tasks.append(asyncio.create_task(socket.drain_input()))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            error = working.exception() if working.done() else ClientGone("left")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(error, ClientGone) or (error is None and is_shell):
            socket.drop()
            return
        if error is None:
            await socket.close(sockets.NORMAL)
            return
        code, reason = _code_of(error)
        self.cut_total[f"{kind}/{reason or code}"] += 1
        log.info("stream_cut", kind=kind, code=code, why=str(error))
        if code == sockets.FAILED and not isinstance(error, (KubeError, SlowReader)):
            log.error("stream_failed", kind=kind, exc_info=error)
        await socket.close(code, reason)


_Opened = Callable[[], None]
"""Told once the connection is a websocket: it is no request under the request's limits any more."""


def _code_of(error: BaseException) -> tuple[int, str]:
    if isinstance(error, NoPods):
        return sockets.FAILED, str(error)
    if isinstance(error, SlowReader):
        return sockets.FAILED, sockets.TOO_SLOW
    if isinstance(error, KubeNotFound):
        return sockets.NOT_FOUND, ""
    if isinstance(error, KubeUnreachable):
        return sockets.CLUSTER_UNREACHABLE, ""
    return sockets.FAILED, ""


def chosen(query: StreamQuery, allowed: frozenset[str] | None) -> frozenset[str] | None:
    """Services to tell of: the ones asked for, else all that the token names; None for all."""
    return query.services or allowed
