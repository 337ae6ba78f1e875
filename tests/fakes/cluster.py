"""A cluster in memory with the calls that the gateway makes, logs, events and commands included."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpulease.errors import KubeError, KubeNotFound, KubeUnreachable
from gpulease.kube.exec import STDERR, STDOUT, ExecEnd
from gpulease.kube.refs import Json, Listing, Ref


class FakeLog:
    """One container's log. ``restart`` ends the readers of the old one."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._ended = False
        self._news = asyncio.Event()
        self._count = 0
        self._cuts = 0
        self.readers = 0
        self.opened: list[tuple[int | None, str | None]] = []

    def write(self, text: str) -> None:
        self._count += 1
        self._lines.append(f"2026-01-01T00:00:00.{self._count:09d}Z {text}\n".encode())
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    def cut(self) -> None:
        """Break the readings under way; the container goes on."""
        self._cuts += 1
        self._news.set()

    def restart(self) -> None:
        self.end()
        self._lines, self._ended, self._news = [], False, asyncio.Event()

    async def _wait(self, news: asyncio.Event) -> None:
        news.clear()
        await news.wait()

    async def read(self, *, follow: bool, tail: int | None, since: str | None) -> AsyncGenerator[bytes, None]:
        self.opened.append((tail, since))
        lines, news, cuts = self._lines, self._news, self._cuts
        at = 0 if tail is None else max(0, len(lines) - tail)
        self.readers += 1
        try:
            while True:
                while at < len(lines) and cuts == self._cuts:
                    at += 1
                    if since is None or lines[at - 1].decode()[:19] >= since[:19]:
                        yield lines[at - 1]
                if not follow or lines is not self._lines or self._ended:
                    return
                if cuts != self._cuts:
                    raise KubeUnreachable("the stream broke")
                await self._wait(news)
        finally:
            self.readers -= 1


@dataclass
class FakeCommand:
    """A command whose end and output a test writes; what it is told is in ``heard``."""

    asked: Mapping[str, Any]
    said: asyncio.Queue[tuple[int, bytes] | ExecEnd | None] = field(default_factory=asyncio.Queue)
    heard: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    closed: bool = False
    task: asyncio.Task[None] | None = None

    def out(self, data: bytes) -> None:
        self.said.put_nowait((STDOUT, data))

    def err(self, data: bytes) -> None:
        self.said.put_nowait((STDERR, data))

    def end(self, code: int | None, message: str = "") -> None:
        self.said.put_nowait(ExecEnd(code, message))

    def break_off(self) -> None:
        self.said.put_nowait(None)

    async def read(self) -> tuple[int, bytes] | ExecEnd:
        found = await self.said.get()
        if found is None:
            raise KubeUnreachable("the connection broke")
        return found

    async def write(self, data: bytes) -> None:
        self.heard.put_nowait(data)

    async def resize(self, width: int, height: int) -> None:
        self.heard.put_nowait((width, height))

    async def close(self) -> None:
        self.closed = True


class FakeCluster:
    """``down`` makes every call unknown; ``applied`` counts writes; ``run`` plays the commands of ``exec``."""

    def __init__(self) -> None:
        self.objects: dict[Ref, Json] = {}
        self.applied: list[Ref] = []
        self.down = False
        self.logs: dict[tuple[str, str], FakeLog] = {}
        self.run: Callable[[FakeCommand], None] = lambda command: command.end(0)
        self.commands: list[FakeCommand] = []
        self.lists_total = 0
        self._version = 1
        self._watches: list[asyncio.Queue[tuple[str, Json] | None]] = []

    def put(self, obj: Mapping[str, Any]) -> None:
        self._version += 1
        body = copy.deepcopy(dict(obj))
        body["metadata"]["resourceVersion"] = str(self._version)
        ref = Ref.of(obj)
        change = "MODIFIED" if ref in self.objects else "ADDED"
        self.objects[ref] = body
        for watch in self._watches:
            watch.put_nowait((change, copy.deepcopy(body)))

    def remove(self, ref: Ref) -> None:
        del self.objects[ref]

    def end_watches(self) -> None:
        """As the API server does after a while."""
        for watch in self._watches:
            watch.put_nowait(None)

    def log_of(self, namespace: str, pod: str) -> FakeLog:
        return self.logs.setdefault((namespace, pod), FakeLog())

    def _up(self) -> None:
        if self.down:
            raise KubeUnreachable("the API server did not answer")

    async def get(self, ref: Ref, *, deadline_s: float | None = None) -> Json | None:
        self._up()
        return copy.deepcopy(self.objects.get(ref))

    async def list(
        self,
        api_version: str,
        kind: str,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | str | None = None,
    ) -> Listing:
        self._up()
        self.lists_total += 1
        found = [
            body
            for ref, body in sorted(self.objects.items(), key=lambda item: str(item[0]))
            if (ref.api_version, ref.kind) == (api_version, kind)
            and namespace in (None, ref.namespace)
            and _labelled(body, labels)
        ]
        return Listing(tuple(copy.deepcopy(found)), str(self._version))

    async def apply(self, obj: Mapping[str, Any], *, deadline_s: float | None = None) -> Json:
        self._up()
        self.put(obj)
        self.applied.append(Ref.of(obj))
        return dict(obj)

    async def version(self) -> Json:
        self._up()
        return {"major": "1", "minor": "34", "gitVersion": "v1.34.4"}

    async def log_lines(
        self,
        namespace: str,
        pod: str,
        *,
        container: str,
        follow: bool,
        tail_lines: int | None = None,
        since: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        self._up()
        found = self.logs.get((namespace, pod))
        if found is None:
            raise KubeNotFound(404, "NotFound", f"pods {pod!r} not found")
        reading = found.read(follow=follow, tail=tail_lines, since=since)
        try:
            async for line in reading:
                yield line
        finally:
            await reading.aclose()

    async def watch(
        self, api_version: str, kind: str, *, namespace: str, resource_version: str
    ) -> AsyncGenerator[tuple[str, Json], None]:
        self._up()
        queue: asyncio.Queue[tuple[str, Json] | None] = asyncio.Queue()
        for body in self.objects.values():
            if int(body["metadata"]["resourceVersion"]) > int(resource_version):
                queue.put_nowait(("ADDED", copy.deepcopy(body)))
        self._watches.append(queue)
        try:
            while (change := await queue.get()) is not None:
                ref = Ref.of(change[1])
                if (ref.api_version, ref.kind, ref.namespace) == (api_version, kind, namespace):
                    yield change
        finally:
            self._watches.remove(queue)

    async def exec(
        self, namespace: str, pod: str, *, container: str, command: Sequence[str], stdin: bool, tty: bool
    ) -> FakeCommand:
        self._up()
        if not command:
            raise KubeError(400, "BadRequest", "you must specify at least one command for the container")
        asked = {
            "namespace": namespace,
            "pod": pod,
            "container": container,
            "command": list(command),
            "stdin": stdin,
            "tty": tty,
        }
        made = FakeCommand(asked)
        self.commands.append(made)
        self.run(made)
        return made


def _labelled(body: Json, labels: Mapping[str, str] | str | None) -> bool:
    held = body["metadata"].get("labels") or {}
    if not labels:
        return True
    if isinstance(labels, str):
        return labels in held
    return all(held.get(key) == value for key, value in labels.items())
