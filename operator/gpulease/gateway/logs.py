"""Logs of a lease's pods, line by line, over restarts and for pods made later (gateway reference §2).

Each line is asked for with its time, so that after a break or a restart the reading goes on where it was. Nothing is
queued here: the next line of a pod is read when the one before has been written to whoever reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass

from gpulease.errors import KubeError, KubeNotFound, KubeUnreachable
from gpulease.gateway.desk import Desk, NoWorkloads, Running
from gpulease.gateway.report import workload_name
from gpulease.kube.refs import Json
from gpulease.workload.objects import SERVICE_LABEL

Send = Callable[[str, str], Awaitable[None]]
"""Takes a pod's name and one line without its end."""
_MOST_PODS = 256
_STARTED = frozenset({"Running", "Succeeded", "Failed"})
_ENDED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class FollowTiming:
    """Seconds: how often pods are looked for, and how long a log without news waits to be opened again."""

    poll_s: float = 2.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 10.0


class NoPods(KubeError):
    """The lease has workloads, and nothing of what was asked for runs."""

    def __init__(self) -> None:
        super().__init__(404, "NoPods", "no running pods")


async def relay(
    desk: Desk,
    namespace: str,
    send: Send,
    *,
    services: frozenset[str] | None,
    follow: bool,
    tail_lines: int | None,
    timing: FollowTiming,
) -> None:
    """Every line of the services' pods to ``send``; ends when the logs do, or with ``follow`` when the lease does.

    Raises ``NoWorkloads``, ``NoPods`` or what the API server said, all before or instead of an end.
    """
    running = await desk.running(namespace)
    if not running.workloads:
        raise NoWorkloads
    pods = _wanted(running, services)
    if not pods:
        raise NoPods
    if follow:
        await _Follower(desk, namespace, send, services, tail_lines, timing).run(pods)
        return
    tasks = [asyncio.create_task(_copy(desk, pod, send, tail_lines)) for pod in pods]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(desk: Desk, pod: Json, send: Send, tail_lines: int | None) -> None:
    log = PodLog(desk, pod, tail_lines)
    async with aclosing(log.lines(follow=False)) as lines:
        async for line in lines:
            await send(log.pod, line)


def _wanted(running: Running, services: frozenset[str] | None) -> list[Json]:
    """Pods that have, or had, something running, by name."""
    found = [
        pod
        for pod in running.pods
        if (pod.get("status") or {}).get("phase") in _STARTED and (services is None or workload_name(pod) in services)
    ]
    return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))[:_MOST_PODS]


class PodLog:
    """One pod's log, read from where the last reading stopped."""

    def __init__(self, desk: Desk, pod: Json, tail_lines: int | None) -> None:
        meta = pod["metadata"]
        self.pod = str(meta["name"])
        self._namespace = str(meta["namespace"])
        self._container = str(meta["labels"][SERVICE_LABEL])
        self._cluster = desk.cluster
        self._tail_lines = tail_lines
        self._since = ""

    async def lines(self, *, follow: bool) -> AsyncGenerator[str, None]:
        """What came after the last line that was yielded."""
        since = self._since
        reading = self._cluster.log_lines(
            self._namespace,
            self.pod,
            container=self._container,
            follow=follow,
            tail_lines=None if since else self._tail_lines,
            since=since or None,
        )
        async with aclosing(reading):
            async for raw in reading:
                time, line = _timed(raw)
                if time:
                    if since and time <= since:
                        continue
                    self._since = time
                yield line


def _timed(raw: bytes) -> tuple[str, str]:
    """(time, line); no time for a piece of a long line, or what the kubelet says itself."""
    text = raw.rstrip(b"\r\n").decode("utf-8", "replace")
    time, blank, line = text.partition(" ")
    if len(time) >= 20 and time[4:5] == "-" and time[10:11] == "T" and time[:4].isdecimal():
        return time, line if blank else ""
    return "", text


class _Follower:
    """Follows the pods there are, and looks for others until the lease is gone."""

    def __init__(
        self,
        desk: Desk,
        namespace: str,
        send: Send,
        services: frozenset[str] | None,
        tail_lines: int | None,
        timing: FollowTiming,
    ) -> None:
        self._desk = desk
        self._namespace = namespace
        self._send = send
        self._services = services
        self._tail_lines = tail_lines
        self._timing = timing
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self, pods: Iterable[Json]) -> None:
        try:
            for pod in pods:
                self._start(pod, self._tail_lines)
            await self._until_gone()
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, pod: Json, tail_lines: int | None) -> None:
        uid = str(pod["metadata"].get("uid") or pod["metadata"]["name"])
        if uid not in self._tasks and len(self._tasks) < _MOST_PODS:
            self._tasks[uid] = asyncio.create_task(self._follow(pod, tail_lines))

    async def _until_gone(self) -> None:
        missed = 0
        while missed < 2:
            await self._pause()
            try:
                running = await self._desk.running(self._namespace)
            except (KubeUnreachable, KubeError):
                continue  # unknown is not gone
            missed = 0 if running.workloads else missed + 1
            present = {str(p["metadata"].get("uid") or p["metadata"]["name"]) for p in running.pods}
            for uid in [uid for uid, task in self._tasks.items() if uid not in present and task.done()]:
                del self._tasks[uid]
            for pod in _wanted(running, self._services):
                self._start(pod, None)

    async def _pause(self) -> None:
        """Until the next look; an error of a pod's reader, such as a reader that is gone, ends the whole."""
        watched = [task for task in self._tasks.values() if not task.done()]
        if not watched:
            await asyncio.sleep(self._timing.poll_s)
        else:
            await asyncio.wait(watched, timeout=self._timing.poll_s, return_when=asyncio.FIRST_EXCEPTION)
        for task in self._tasks.values():
            if task.done() and not task.cancelled() and task.exception() is not None:
                task.result()

    async def _follow(self, pod: Json, tail_lines: int | None) -> None:
        """One pod over its containers' restarts; ends when the pod is gone or over."""
        log = PodLog(self._desk, pod, tail_lines)
        wait_s = self._timing.first_wait_s
        while True:
            heard = False
            try:
                async with aclosing(log.lines(follow=True)) as lines:
                    async for line in lines:
                        heard = True
                        await self._send(log.pod, line)
            except KubeNotFound:
                return
            except (KubeUnreachable, KubeError):
                pass  # starting, restarting or unreachable: asked again
            if not heard and await self._over(log.pod):
                return
            wait_s = self._timing.first_wait_s if heard else min(wait_s * 2, self._timing.longest_wait_s)
            await asyncio.sleep(wait_s)

    async def _over(self, name: str) -> bool:
        """Positively gone or ended; not so when the API server does not say."""
        try:
            running = await self._desk.running(self._namespace)
        except (KubeUnreachable, KubeError):
            return False
        pod = next((p for p in running.pods if p["metadata"]["name"] == name), None)
        return pod is None or (pod.get("status") or {}).get("phase") in _ENDED
