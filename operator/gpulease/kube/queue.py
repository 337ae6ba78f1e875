"""A level-triggered work queue: keys in, at most one worker per key, failures later and later.

The semantics are client-go's: adding a key that waits changes nothing; adding a key that is being worked on runs it
once more afterwards, so no event is lost and no key runs twice at a time. :class:`Backlog` is that logic alone, with
time as a parameter; :class:`WorkQueue` runs handlers from it on the event loop (whose clock is the only clock here).
"""

from __future__ import annotations

import asyncio
import bisect
import heapq
import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from gpulease.errors import GpuleaseError, InvariantBroken

K = TypeVar("K", bound=Hashable)

_LOG = structlog.get_logger(__name__)
_LOW_SHARE = 8
"""One low-priority key is served after this many urgent ones, so that resync never starves."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Wait ``base_s * 2**(failures - 1)``, at most ``cap_s``."""

    base_s: float = 0.25
    cap_s: float = 60.0

    def wait_s(self, failures: int) -> float:
        # The exponent is bounded first: 2.0**2000 overflows.
        return float(min(self.cap_s, self.base_s * 2.0 ** min(max(failures, 1) - 1, 60)))


@dataclass(frozen=True, slots=True)
class QueueStats:
    """``depth`` counts keys that could run now, ``delayed`` keys whose time has not come."""

    depth: int
    in_flight: int
    delayed: int
    oldest_age_s: float
    longest_run_s: float
    done_total: int
    failed_total: int
    refused_total: int
    failing: int


RUN_BOUNDS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class RunTimes:
    """How long runs took: counts up to each bound of ``RUN_BOUNDS_S`` (the last count is of all), and their sum."""

    def __init__(self) -> None:
        self._counts = [0] * (len(RUN_BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, run_s: float) -> None:
        self._counts[bisect.bisect_left(RUN_BOUNDS_S, run_s)] += 1
        self.sum_s += run_s

    @property
    def cumulative(self) -> list[int]:
        return list(itertools.accumulate(self._counts))


class Backlog(Generic[K]):
    """Which key is next. ``now_s`` is any clock that never goes back."""

    def __init__(self, *, backoff: Backoff | None = None, most_keys: int = 100_000) -> None:
        self._backoff = backoff or Backoff()
        self._most_keys = most_keys
        self._urgent: OrderedDict[K, float] = OrderedDict()
        self._low: OrderedDict[K, float] = OrderedDict()
        self._running: dict[K, float] = {}
        self._again: dict[K, bool] = {}
        self._due: dict[K, tuple[float, bool]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._serial = 0
        self._failures: dict[K, int] = {}
        self._since_low = 0
        self.refused_total = 0

    def add(self, key: K, now_s: float, *, urgent: bool = True) -> bool:
        """Let ``key`` run as soon as it can. False when the backlog is full; the periodic resync brings it back."""
        if key in self._running:
            self._again[key] = self._again.get(key, False) or urgent
            return True
        if key in self._urgent:
            return True
        if key in self._low:
            if urgent:
                self._urgent[key] = self._low.pop(key)
            return True
        if len(self._urgent) + len(self._low) >= self._most_keys:
            self.refused_total += 1
            return False
        (self._urgent if urgent else self._low)[key] = now_s
        return True

    def add_after(self, key: K, delay_s: float, now_s: float, *, urgent: bool = True) -> bool:
        """Let ``key`` run after a while; the earliest of several wishes counts."""
        if delay_s <= 0:
            return self.add(key, now_s, urgent=urgent)
        due_s = now_s + delay_s
        known = self._due.get(key)
        if known is not None and known[0] <= due_s:
            self._due[key] = (known[0], known[1] or urgent)
            return True
        if known is None and len(self._due) >= self._most_keys:
            self.refused_total += 1
            return False
        self._due[key] = (due_s, urgent or (known is not None and known[1]))
        self._serial += 1
        heapq.heappush(self._heap, (due_s, self._serial, key))
        return True

    def retry(self, key: K, now_s: float) -> float:
        """After a failure: run again after the backoff, whose seconds are returned."""
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        wait_s = self._backoff.wait_s(failures)
        self.add_after(key, wait_s, now_s)
        return wait_s

    def forget(self, key: K) -> None:
        """The key's failures are over."""
        self._failures.pop(key, None)

    def take(self, now_s: float) -> K | None:
        """The next key to run, now marked as running; None when none can."""
        self._ripen(now_s)
        use_low = bool(self._low) and (not self._urgent or self._since_low >= _LOW_SHARE)
        source = self._low if use_low else self._urgent
        if not source:
            return None
        self._since_low = 0 if use_low else self._since_low + 1
        key, _ = source.popitem(last=False)
        self._running[key] = now_s
        return key

    def done(self, key: K, now_s: float) -> None:
        """The worker left ``key``; if it was added meanwhile it waits again."""
        del self._running[key]
        urgent = self._again.pop(key, None)
        if urgent is not None:
            self.add(key, now_s, urgent=urgent)

    def next_due_s(self) -> float | None:
        """When the next delayed key ripens, on the caller's clock."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)

    def __len__(self) -> int:
        return len(self._urgent) + len(self._low)

    def stats(self, now_s: float) -> tuple[int, int, int, float, float, int]:
        """Depth, running, delayed, oldest wait, longest run, keys with failures."""
        oldest = [next(iter(queue.values())) for queue in (self._urgent, self._low) if queue]
        return (
            len(self),
            len(self._running),
            len(self._due),
            max((now_s - since for since in oldest), default=0.0),
            max((now_s - since for since in self._running.values()), default=0.0),
            len(self._failures),
        )

    def _ripen(self, now_s: float) -> None:
        self._drop_stale()
        while self._heap and self._heap[0][0] <= now_s:
            _, _, key = heapq.heappop(self._heap)
            _, urgent = self._due.pop(key)
            self.add(key, now_s, urgent=urgent)
            self._drop_stale()

    def _drop_stale(self) -> None:
        while self._heap:
            due_s, _, key = self._heap[0]
            known = self._due.get(key)
            if known is not None and known[0] == due_s:
                return
            heapq.heappop(self._heap)


class WorkQueue(Generic[K]):
    """Runs ``handler(key)`` for added keys until cancelled.

    The handler returns seconds after which to look again, or None. An exception counts as a failure and is retried
    with backoff; so does a run longer than ``run_limit_s``, which is cancelled.
    """

    def __init__(
        self,
        handler: Callable[[K], Awaitable[float | None]],
        *,
        name: str = "work",
        workers: int = 8,
        backoff: Backoff | None = None,
        run_limit_s: float = 120.0,
        most_keys: int = 100_000,
    ) -> None:
        self._handler = handler
        self._name = name
        self._workers = workers
        self._run_limit_s = run_limit_s
        self._backlog: Backlog[K] = Backlog(backoff=backoff, most_keys=most_keys)
        self._wake = asyncio.Event()
        self._done_total = 0
        self._failed_total = 0
        self.run_times = RunTimes()

    def add(self, key: K, *, urgent: bool = True) -> bool:
        """From the event loop's thread only; costs microseconds. False when the queue is full."""
        taken = self._backlog.add(key, _now_s(), urgent=urgent)
        self._wake.set()
        return taken

    def add_after(self, key: K, delay_s: float, *, urgent: bool = True) -> bool:
        taken = self._backlog.add_after(key, delay_s, _now_s(), urgent=urgent)
        self._wake.set()
        return taken

    def stats(self) -> QueueStats:
        depth, running, delayed, oldest_s, longest_s, failing = self._backlog.stats(_now_s())
        return QueueStats(
            depth,
            running,
            delayed,
            oldest_s,
            longest_s,
            self._done_total,
            self._failed_total,
            self._backlog.refused_total,
            failing,
        )

    def failures(self, key: K) -> int:
        """Failures of ``key`` in a row."""
        return self._backlog.failures(key)

    async def run(self) -> None:
        """Work until cancelled; handlers under way are then cancelled and awaited."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                self._wake.clear()
                while len(running) < self._workers:
                    key = self._backlog.take(_now_s())
                    if key is None:
                        break
                    task = asyncio.create_task(self._work(key), name=f"{self._name}:{key}")
                    running.add(task)
                    # After the task has left ``running``: woken any earlier, this loop would still see no free worker.
                    task.add_done_callback(running.discard)
                    task.add_done_callback(lambda _: self._wake.set())
                await self._rest(len(running) < self._workers)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _rest(self, could_start_more: bool) -> None:
        """Until something was added, a worker got free, or a delayed key ripens."""
        due_s = self._backlog.next_due_s() if could_start_more else None
        try:
            async with asyncio.timeout(None if due_s is None else max(due_s - _now_s(), 0.0)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _work(self, key: K) -> None:
        began_s = _now_s()
        try:
            async with asyncio.timeout(self._run_limit_s):
                again_s = await self._handler(key)
        except Exception as error:
            self._failed_total += 1
            wait_s = self._backlog.retry(key, _now_s())
            _LOG.warning(
                "work failed",
                queue=self._name,
                key=str(key),
                failures=self._backlog.failures(key),
                retry_in_s=round(wait_s, 3),
                error=str(error) or type(error).__name__,
                exc_info=not _expected(error),
            )
        else:
            self._done_total += 1
            self._backlog.forget(key)
            if again_s is not None:
                self._backlog.add_after(key, again_s, _now_s())
        finally:
            self.run_times.add(_now_s() - began_s)
            self._backlog.done(key, _now_s())


def _expected(error: Exception) -> bool:
    """Errors of our own tree and timeouts say all in a sentence; others are defects and need their traceback."""
    return isinstance(error, (GpuleaseError, TimeoutError)) and not isinstance(error, InvariantBroken)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
