"""Who held which device for how long: the part of metering that money may rest on.

An interval begins at the first sighting of an allocation and ends at the last one; what nobody saw is not counted, so
sampling errs in the tenant's favour by at most one sample at either end. Time the agent could not see (kubelet down,
agent restarted) splits the interval and is marked as a gap, never filled in.

All times are milliseconds on one :class:`Timeline`, which follows the monotonic clock and never goes back. An
interval's length is therefore right whatever the wall clock does, and two claims on one device cannot overlap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

NS_PER_MS = 1_000_000
STEP_MS = 1000
"""A wall clock further ahead than this was set, not slewed."""


@dataclass(frozen=True, slots=True, order=True)
class Allocation:
    """One device in one container. ``share`` names the part of a shared device, empty for a whole one."""

    namespace: str
    pod: str
    container: str
    device_uuid: str
    share: str = ""

    @property
    def device(self) -> tuple[str, str]:
        """What can have one holder only."""
        return self.device_uuid, self.share


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of an interval, ready to be recorded.

    ``started_ms`` is the same for all spans of an interval; ``gap_ms`` is the unseen time right before ``from_ms``;
    ``open`` is False for the last span.
    """

    allocation: Allocation
    started_ms: int
    from_ms: int
    to_ms: int
    gap_ms: int = 0
    open: bool = True


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of the timeline. ``offset_ms`` is wall clock minus timeline.

    ``skipped_ms`` is how far the timeline was moved forward, without time having passed, to meet a clock that was set.
    """

    ms: int
    offset_ms: int = 0
    skipped_ms: int = 0


class Timeline:
    """Wall-clock milliseconds, advanced by the monotonic clock.

    A clock set forward is followed at once, as skipped time. A clock set back is not: the difference shows as a
    negative offset. ``floor_ms`` is the end of the last record of an earlier run.
    """

    def __init__(self, *, wall_ns: int, mono_ns: int, floor_ms: int = 0) -> None:
        self._base_ms = max(wall_ns // NS_PER_MS, floor_ms)
        self._base_mono_ns = mono_ns
        self._last_ms = self._base_ms

    def at(self, *, wall_ns: int, mono_ns: int) -> Moment:
        ms = max(self._base_ms + (mono_ns - self._base_mono_ns) // NS_PER_MS, self._last_ms)
        offset_ms = wall_ns // NS_PER_MS - ms
        skipped_ms = 0
        if offset_ms > STEP_MS:
            skipped_ms, offset_ms = offset_ms, 0
            ms += skipped_ms
            self._base_ms, self._base_mono_ns = ms, mono_ns
        self._last_ms = ms
        return Moment(ms, offset_ms, skipped_ms)


@dataclass(frozen=True, slots=True)
class _Running:
    started_ms: int
    from_ms: int
    seen_ms: int
    gap_ms: int = 0


class IntervalMeter:
    """Turns sightings into spans. ``max_gap_ms`` is the longest time between two sightings that counts as held."""

    def __init__(self, *, max_gap_ms: int) -> None:
        self._max_gap_ms = max_gap_ms
        self._running: dict[Allocation, _Running] = {}
        self.contested: tuple[Allocation, ...] = ()
        """Claims of the last sighting on a device that another claim holds; they are not counted."""

    @property
    def running(self) -> frozenset[Allocation]:
        return frozenset(self._running)

    def begin_ms(self, allocation: Allocation) -> int:
        """Where the next span of a running interval begins."""
        return self._running[allocation].from_ms

    def started_ms(self, allocation: Allocation) -> int:
        return self._running[allocation].started_ms

    def resume(self, spans: Iterable[Span]) -> None:
        """Take up intervals that an earlier run of the same boot left open (their last spans)."""
        for span in spans:
            self._running[span.allocation] = _Running(span.started_ms, span.to_ms, span.to_ms)

    def observe(self, at: Moment, allocations: Iterable[Allocation]) -> list[Span]:
        """One complete and successful sighting. Returns the spans that begin, end or are split here."""
        held = self._one_holder_each(allocations)
        spans = [self._end(gone) for gone in sorted(self._running.keys() - held)]
        for allocation in sorted(held):
            running = self._running.get(allocation)
            if running is None:
                self._running[allocation] = _Running(at.ms, at.ms, at.ms)
                spans.append(Span(allocation, at.ms, at.ms, at.ms))
            else:
                spans.extend(self._continue(allocation, running, at))
        return spans

    def cut(self) -> list[Span]:
        """One span for each interval that grew since it was last cut."""
        spans = []
        for allocation, running in sorted(self._running.items()):
            if running.seen_ms > running.from_ms:
                spans.append(self._span(allocation, running))
                self._running[allocation] = replace(running, from_ms=running.seen_ms, gap_ms=0)
        return spans

    def end_all(self) -> list[Span]:
        """Close every interval at its last sighting: after a reboot nothing runs on."""
        return [self._end(allocation) for allocation in sorted(self._running)]

    def _continue(self, allocation: Allocation, running: _Running, at: Moment) -> list[Span]:
        reached_ms = at.ms - at.skipped_ms
        unseen_ms = reached_ms - running.seen_ms
        gap_ms = unseen_ms if unseen_ms > self._max_gap_ms else 0
        if not gap_ms:
            running = replace(running, seen_ms=max(reached_ms, running.seen_ms))
        if not gap_ms and not at.skipped_ms:
            self._running[allocation] = running
            return []
        whole = running.seen_ms > running.from_ms
        carried_ms = 0 if whole else running.gap_ms
        self._running[allocation] = _Running(running.started_ms, at.ms, at.ms, gap_ms + carried_ms)
        return [self._span(allocation, running)] if whole else []

    def _end(self, allocation: Allocation) -> Span:
        return replace(self._span(allocation, self._running.pop(allocation)), open=False)

    @staticmethod
    def _span(allocation: Allocation, running: _Running) -> Span:
        return Span(allocation, running.started_ms, running.from_ms, running.seen_ms, running.gap_ms)

    def _one_holder_each(self, allocations: Iterable[Allocation]) -> set[Allocation]:
        """The claim that was first keeps the device: a kubelet may still list a pod that has just ended."""
        claims: dict[tuple[str, str], set[Allocation]] = {}
        for allocation in allocations:
            claims.setdefault(allocation.device, set()).add(allocation)
        held: set[Allocation] = set()
        contested: list[Allocation] = []
        for rivals in claims.values():
            winner = min(rivals, key=lambda rival: (rival not in self._running, rival))
            held.add(winner)
            contested.extend(rivals - {winner})
        self.contested = tuple(sorted(contested))
        return held
