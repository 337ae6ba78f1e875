"""One simulated process: its clock, its disk, its tasks, and its sudden end.

A process ends between any two effects: every port counts a step before and after what it does, and when the count
reaches the fuse the process is dead. From then on its ports do nothing any more, and its tasks are cancelled.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from gpulease.store.journal import Journal
from gpulease.units import NS_PER_S

CURRENT: ContextVar[Process | None] = ContextVar("sim-process", default=None)


class Crashed(asyncio.CancelledError):
    """The process is dead; a cancellation, so that no handler of errors takes it for an answer."""


class Process:
    """``fuse`` is the number of steps left to live, None for a healthy process."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, epoch_ns: int) -> None:
        self.name, self._loop, self._epoch_ns = name, loop, epoch_ns
        self.skew_ns = 0
        self.dead = False
        self.fuse: int | None = None
        self.steps = 0
        self.died_at = ""
        self.on_death: Callable[[Process], None] | None = None
        self._tasks: dict[asyncio.Task[Any], None] = {}

    # --- clock -------------------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        return self._epoch_ns + self.skew_ns + int(self._loop.time() * NS_PER_S)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_ns() / NS_PER_S, tz=UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self, main: Callable[[], Any]) -> asyncio.Task[Any]:
        """Run ``main`` as this process: every task that comes of it belongs to it."""
        token = CURRENT.set(self)
        try:
            return self._loop.create_task(main(), name=self.name)
        finally:
            CURRENT.reset(token)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks[task] = None
        task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()

    def step(self, where: str) -> None:
        """A place to die at; raises :class:`Crashed` in a dead process."""
        if self.dead:
            raise Crashed(where)
        self.steps += 1
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse <= 0:
                self.kill(where)
                raise Crashed(where)

    def kill(self, where: str = "killed") -> None:
        if self.dead:
            return
        self.dead, self.fuse, self.died_at = True, None, where
        self._loop.call_soon(self._reap)

    def _reap(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            # Some await what they have cancelled: until all are gone.
            self._loop.call_later(0.001, self._reap)
            return
        if self.on_death is not None:
            self.on_death(self)


def adopting(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
    """The loop's task factory: a task belongs to the process that makes it."""
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **kwargs)
    process = CURRENT.get()
    if process is not None:
        process.adopt(task)
    return task


class Disk:
    """What survives a process: one SQLite database. ``full`` refuses writes, as a full or read-only disk does."""

    def __init__(self) -> None:
        self.raw = sqlite3.connect(":memory:", isolation_level=None)
        self.full = False
        self.commits = 0
        self.on_put: Callable[[str, str, dict[str, Any]], None] | None = None

    def copy(self) -> sqlite3.Connection:
        target = sqlite3.connect(":memory:", isolation_level=None)
        self.raw.backup(target)
        return target

    def restore(self, backup: sqlite3.Connection) -> None:
        backup.backup(self.raw)


class _Handle:
    """A process's connection: dies with it, and every commit is a place to die at, before and after."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk, self._process, self._raw = disk, process, disk.raw

    @property
    def in_transaction(self) -> bool:
        return not self._process.dead and self._raw.in_transaction

    def execute(self, statement: str, values: Any = ()) -> Any:
        if self._process.dead:
            if self._raw.in_transaction:
                # What the journal of a real disk does to a torn write at the next start.
                self._raw.execute("ROLLBACK")
            raise Crashed("store")
        if statement == "BEGIN IMMEDIATE" and self._disk.full:
            raise sqlite3.OperationalError("database or disk is full")
        if statement != "COMMIT":
            return self._raw.execute(statement, values)
        try:
            self._process.step("before a commit")
        except Crashed:
            self._raw.execute("ROLLBACK")
            raise
        done = self._raw.execute(statement)
        self._disk.commits += 1
        self._process.step("after a commit")
        return done

    def close(self) -> None:
        return None


class SimJournal(Journal):
    """The operator's journal on a simulated disk."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._path = "simulated disk"
        self._disk = disk
        self._db: Any = _Handle(disk, process)
        self._migrate()

    def put(self, kind: str, key: str, body: dict[str, Any], *, owner: str = "", is_open: bool = True) -> None:
        super().put(kind, key, body, owner=owner, is_open=is_open)
        if self._disk.on_put is not None:
            self._disk.on_put(kind, key, body)
