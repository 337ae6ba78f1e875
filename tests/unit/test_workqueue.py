"""The work queue's promises: no key lost, none run twice at a time, failures ever later. Time is the fake loop's."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from gpulease.errors import KubeUnreachable
from gpulease.kube.queue import Backlog, Backoff, WorkQueue

pytestmark = [pytest.mark.unit, pytest.mark.looptime]


def now_s() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def running(queue: WorkQueue[str]) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def recorder(
    runs: list[tuple[str, float]], *, takes_s: float = 0.0, again_s: float | None = None
) -> Callable[[str], Awaitable[float | None]]:
    async def handle(key: str) -> float | None:
        runs.append((key, now_s()))
        await asyncio.sleep(takes_s)
        return again_s

    return handle


async def test_one_burst_of_adds_is_one_run() -> None:
    runs: list[tuple[str, float]] = []
    queue = WorkQueue(recorder(runs))
    for _ in range(100):
        queue.add("a")
    async with running(queue):
        await asyncio.sleep(1)
    assert [key for key, _ in runs] == ["a"]


async def test_add_while_running_runs_once_more_after_it_and_never_beside_it() -> None:
    runs: list[tuple[str, float]] = []
    queue = WorkQueue(recorder(runs, takes_s=10), workers=4)
    queue.add("a")
    async with running(queue):
        await asyncio.sleep(5)
        queue.add("a")
        queue.add("a")
        await asyncio.sleep(50)
    assert [at for _, at in runs] == pytest.approx([runs[0][1], runs[0][1] + 10])


async def test_workers_bound_what_runs_at_a_time() -> None:
    running_now = most = 0

    async def handle(_: str) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(1)
        running_now -= 1

    queue = WorkQueue(handle, workers=3)
    for index in range(20):
        queue.add(f"k{index}")
    async with running(queue):
        await asyncio.sleep(6.5)
        assert queue.stats().in_flight == 2
        await asyncio.sleep(5)
    assert (most, queue.stats().done_total, queue.stats().depth) == (3, 20, 0)


async def test_failures_come_back_later_and_later_up_to_the_cap_and_success_forgets_them() -> None:
    at: list[float] = []

    async def handle(_: str) -> None:
        at.append(now_s())
        if len(at) <= 6:
            raise KubeUnreachable("no answer")

    queue = WorkQueue(handle, backoff=Backoff(base_s=1, cap_s=8))
    queue.add("a")
    async with running(queue):
        await asyncio.sleep(100)
    waits = [round(after - before, 3) for before, after in itertools.pairwise(at)]
    assert waits == [1, 2, 4, 8, 8, 8]
    assert (queue.failures("a"), queue.stats().failed_total, queue.stats().done_total) == (0, 6, 1)


async def test_an_event_does_not_wait_for_the_backoff() -> None:
    at: list[float] = []

    async def handle(_: str) -> None:
        at.append(now_s())
        if len(at) == 1:
            raise KubeUnreachable("no answer")

    queue = WorkQueue(handle, backoff=Backoff(base_s=50, cap_s=50))
    queue.add("a")
    async with running(queue):
        await asyncio.sleep(1)
        queue.add("a")
        await asyncio.sleep(1)
        assert len(at) == 2


async def test_requeue_after_and_the_earliest_of_two_wishes() -> None:
    runs: list[tuple[str, float]] = []
    queue = WorkQueue(recorder(runs, again_s=30))
    queue.add_after("a", 20)
    queue.add_after("a", 5)
    queue.add_after("a", 9)
    async with running(queue):
        began = now_s()
        await asyncio.sleep(66)
    assert [round(at - began, 3) for _, at in runs] == [5, 35, 65]


async def test_a_run_over_its_limit_is_cancelled_and_tried_again() -> None:
    begun = 0

    async def handle(_: str) -> None:
        nonlocal begun
        begun += 1
        await asyncio.sleep(3600)

    queue = WorkQueue(handle, run_limit_s=10, backoff=Backoff(base_s=1, cap_s=1))
    queue.add("a")
    async with running(queue):
        await asyncio.sleep(25)
    assert begun == 3
    assert queue.stats().failed_total == 2


async def test_resync_waits_behind_events_but_does_not_starve() -> None:
    order: list[str] = []

    async def handle(key: str) -> None:
        order.append(key)

    queue = WorkQueue(handle, workers=1)
    for index in range(3):
        queue.add(f"low{index}", urgent=False)
    for index in range(20):
        queue.add(f"high{index}")
    queue.add("low2")
    async with running(queue):
        await asyncio.sleep(1)
    assert order[:8] == [f"high{index}" for index in range(8)]
    assert order[8] == "low0"
    assert order.index("low2") == 22, "an event for a key that waits as resync makes it urgent"
    assert sorted(order) == sorted({*order})
    assert len(order) == 23


async def test_stats_show_age_and_depth() -> None:
    queue = WorkQueue(recorder([], takes_s=100), workers=1)
    queue.add("a")
    queue.add("b")
    queue.add_after("c", 1000)
    async with running(queue):
        await asyncio.sleep(7)
        stats = queue.stats()
    assert (stats.depth, stats.in_flight, stats.delayed) == (1, 1, 1)
    assert stats.oldest_age_s == pytest.approx(7)
    assert stats.longest_run_s == pytest.approx(7)


async def test_cancelling_the_queue_cancels_its_workers() -> None:
    ended = asyncio.Event()

    async def handle(_: str) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    queue = WorkQueue(handle)
    queue.add("a")
    async with running(queue):
        await asyncio.sleep(1)
    assert ended.is_set()


def test_a_full_backlog_refuses_and_counts() -> None:
    backlog: Backlog[int] = Backlog(most_keys=2)
    assert [backlog.add(key, 0.0) for key in (1, 2, 3, 1)] == [True, True, False, True]
    assert backlog.add_after(3, 1, 0.0)
    assert backlog.add_after(4, 1, 0.0)
    assert not backlog.add_after(5, 1, 0.0)
    assert backlog.refused_total == 2


@pytest.mark.parametrize(("failures", "wait_s"), [(0, 0.5), (1, 0.5), (2, 1.0), (5, 8.0), (6, 10.0), (5000, 10.0)])
def test_backoff(failures: int, wait_s: float) -> None:
    assert Backoff(base_s=0.5, cap_s=10).wait_s(failures) == wait_s
