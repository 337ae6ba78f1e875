"""The agent's loop: look, turn what was seen into intervals, write records.

Each source may fail alone. A failed look at the kubelet is unknown, never "nothing is allocated": intervals stay open
and the time shows as a gap. A record that cannot be written is kept and written later; no new ones are cut meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from gpulease.agent.model import ClockPort, DcgmDevice, DcgmPort, KubeletPort, NvmlPort, NvmlReading, Source, View
from gpulease.agent.store import RecordStore
from gpulease.errors import NodeUnreachable, StoreError
from gpulease.meter.evidence import Sample, Window
from gpulease.meter.intervals import Allocation, IntervalMeter, Moment, Span, Timeline
from gpulease.meter.records import body_of

T = TypeVar("T")
log = structlog.get_logger(__name__)

MAX_UNWRITTEN = 10_000
RECENT_XIDS = 16
GAP_SAMPLES = 3
"""Longer than this many sampling periods without a sighting is a gap."""
_DEFAULT_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class AgentPolicy:
    """``sample_s`` between looks, ``record_s`` between records of a running interval, ``dcgm_s`` between scrapes."""

    node: str
    sample_s: float = 1.0
    record_s: float = 10.0
    dcgm_s: float = 5.0

    @property
    def max_gap_ms(self) -> int:
        return int(GAP_SAMPLES * self.sample_s * 1000)


class Agent:
    """Call :meth:`start` once, then :meth:`look` each ``sample_s`` (or :meth:`run`)."""

    def __init__(
        self,
        policy: AgentPolicy,
        *,
        clock: ClockPort,
        store: RecordStore,
        nvml: NvmlPort,
        kubelet: KubeletPort,
        dcgm: DcgmPort | None = None,
    ) -> None:
        self.policy = policy
        self.view = View()
        self._clock, self._store = clock, store
        self._nvml, self._kubelet, self._dcgm = nvml, kubelet, dcgm
        self._meter = IntervalMeter(max_gap_ms=policy.max_gap_ms)
        self._timeline = Timeline(wall_ns=clock.wall_ns(), mono_ns=clock.mono_ns(), floor_ms=store.head.to_ms)
        self._windows: dict[Allocation, tuple[Window, Window]] = {}
        self._unwritten: deque[tuple[Span, dict[str, Any]]] = deque()
        self._sources: dict[str, Source] = {}
        self._xids: dict[str, deque[tuple[int, int]]] = {}
        self._dcgm_read: tuple[int, dict[str, DcgmDevice]] | None = None
        self._next_cut_ns = 0
        self._next_dcgm_ns = 0
        self._driver = ""
        self._skipped_ms = 0
        self._behind = False
        """The last write failed: what is cut now would only wait too."""
        self.recorded_ms: dict[Allocation, int] = {}
        """Of running intervals, since this agent started."""

    async def start(self) -> None:
        """Take up the intervals an earlier run left open; those of an earlier boot end where they were last seen."""
        moment = self._now()
        for boot_id, span in self._store.running():
            if boot_id == self._clock.boot_id:
                self._meter.resume([span])
            else:
                ended = replace(span, from_ms=span.to_ms, gap_ms=0, open=False)
                self._queue([ended], moment)
        await self._write(moment)

    async def run(self) -> None:
        """Until cancelled. Looks do not pile up: a late one moves the next."""
        await self.start()
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                await self.look()
                await asyncio.sleep(max(began + self.policy.sample_s - loop.time(), self.policy.sample_s / 10))
        finally:
            # What was seen until now belongs in the records, also when the agent is told to stop.
            await asyncio.shield(self.finish())

    async def finish(self) -> None:
        moment = self._now()
        self._queue(self._meter.cut(), moment)
        await self._write(moment)

    async def look(self) -> None:
        """One look at every source, and the records that follow from it. Never raises for a source or the disk."""
        nvml = asyncio.create_task(self._ask("nvml", self._nvml.read()))
        dcgm = self._scrape_if_due()
        seen = await self._ask("kubelet", self._kubelet.allocations())
        # The sighting is of this moment, however long the other sources take.
        moment = self._now()
        reading = await nvml
        scraped = await dcgm if dcgm is not None else None
        for name, answer in (("kubelet", seen), ("nvml", reading), ("dcgm", scraped)):
            if answer is not None:
                self._sources[name] = Source(last_ok_ms=moment.ms)
        if reading is not None:
            self._driver = reading.driver_version
        if scraped is not None:
            self._dcgm_read = (moment.ms, scraped)
        self._take_xids(moment)
        if seen is not None:
            self._queue(self._meter.observe(replace(moment, skipped_ms=self._skipped_ms), seen), moment)
            self._skipped_ms = 0
            self._follow(moment, reading, scraped)
        if not self._behind and self._clock.mono_ns() >= self._next_cut_ns:
            self._next_cut_ns = self._clock.mono_ns() + int(self.policy.record_s * 1e9)
            self._queue(self._meter.cut(), moment)
        await self._write(moment)
        self._publish(moment, reading, seen)

    def _now(self) -> Moment:
        moment = self._timeline.at(wall_ns=self._clock.wall_ns(), mono_ns=self._clock.mono_ns())
        # Kept until the next sighting: the meter must not take a clock being set for time that passed.
        self._skipped_ms += moment.skipped_ms
        return moment

    def _scrape_if_due(self) -> asyncio.Task[dict[str, DcgmDevice] | None] | None:
        now_ns = self._clock.mono_ns()
        if self._dcgm is None or now_ns < self._next_dcgm_ns:
            return None
        self._next_dcgm_ns = now_ns + int(self.policy.dcgm_s * 1e9)
        return asyncio.create_task(self._ask("dcgm", self._dcgm.read()))

    async def _ask(self, name: str, question: Awaitable[T]) -> T | None:
        """None is unknown."""
        try:
            return await asyncio.wait_for(question, _DEFAULT_DEADLINE_S)
        except (NodeUnreachable, TimeoutError) as error:
            problem = str(error) or f"{name} did not answer within {_DEFAULT_DEADLINE_S:g} s"
        except Exception as error:
            # A source's surprise must not end the metering of the others.
            problem = f"{name} failed unexpectedly: {type(error).__name__} {error}"
            log.exception("a source of the agent failed", source=name)
        before = self._sources.get(name, Source())
        if before.problem != problem:
            log.warning("a source of the agent is silent", source=name, problem=problem)
        self._sources[name] = Source(before.last_ok_ms, problem, before.failures + 1)
        return None

    def _take_xids(self, moment: Moment) -> None:
        for xid in self._nvml.drain_xids():
            log.warning("XID", device=xid.uuid, xid=xid.code)
            self._xids.setdefault(xid.uuid, deque(maxlen=RECENT_XIDS)).append((moment.ms, xid.code))
            for allocation, (own, _) in self._windows.items():
                if allocation.device_uuid == xid.uuid:
                    own.xid(xid.code)

    def _follow(self, moment: Moment, reading: NvmlReading | None, scraped: dict[str, DcgmDevice] | None) -> None:
        """Keep a pair of windows (NVML, DCGM) per running interval and feed them."""
        devices = {d.uuid: d for d in reading.devices if d.problem is None} if reading is not None else {}
        epoch = f"{self._clock.boot_id}/{self._driver}"
        for allocation in self._meter.running:
            begin_ms = self._meter.begin_ms(allocation)
            own, dcgm = self._windows.get(allocation) or self._open_windows(allocation, begin_ms)
            for window in (own, dcgm):
                if window.from_ms != begin_ms:
                    window.close(window.from_ms, next_from_ms=begin_ms)
            device = devices.get(allocation.device_uuid)
            if device is not None:
                own.add(Sample(moment.ms, device.energy_mj, device.util_permille, device.mem_used_bytes, epoch))
            told = (scraped or {}).get(allocation.device_uuid)
            if told is not None:
                dcgm.add(Sample(moment.ms, told.energy_mj, told.util_permille, told.mem_used_bytes, epoch))

    def _open_windows(self, allocation: Allocation, from_ms: int) -> tuple[Window, Window]:
        own = Window(from_ms=from_ms, max_gap_ms=self.policy.max_gap_ms)
        dcgm = Window(from_ms=from_ms, max_gap_ms=int(GAP_SAMPLES * self.policy.dcgm_s * 1000))
        self._windows[allocation] = (own, dcgm)
        return own, dcgm

    def _queue(self, spans: list[Span], moment: Moment) -> None:
        for span in spans:
            windows = self._windows.get(span.allocation) or self._open_windows(span.allocation, span.from_ms)
            own, dcgm = (window.close(span.to_ms) for window in windows)
            if span.open:
                before_ms = self.recorded_ms.get(span.allocation, 0)
                self.recorded_ms[span.allocation] = before_ms + span.to_ms - span.from_ms
            else:
                del self._windows[span.allocation]
                self.recorded_ms.pop(span.allocation, None)
            body = body_of(
                span,
                node=self.policy.node,
                boot_id=self._clock.boot_id,
                clock_offset_ms=moment.offset_ms,
                evidence=own,
                dcgm=dcgm if self._dcgm is not None else None,
            )
            if len(self._unwritten) >= MAX_UNWRITTEN:
                log.error("too many records wait for the disk; the oldest is lost", limit=MAX_UNWRITTEN)
                self._unwritten.popleft()
            self._unwritten.append((span, body))

    async def _write(self, moment: Moment) -> None:
        if not self._unwritten:
            return
        batch = list(self._unwritten)
        try:
            await asyncio.to_thread(self._store.append, batch, boot_id=self._clock.boot_id)
        except StoreError as error:
            self._behind = True
            before = self._sources.get("store", Source())
            if before.problem is None:
                log.error("records cannot be written; they are kept in memory", error=str(error))
            self._sources["store"] = Source(before.last_ok_ms, str(error), before.failures + 1)
            return
        self._sources["store"] = Source(last_ok_ms=moment.ms)
        self._unwritten.clear()
        self._behind = False

    def _publish(self, moment: Moment, reading: NvmlReading | None, seen: frozenset[Allocation] | None) -> None:
        self.view = View(
            at_ms=moment.ms,
            offset_ms=moment.offset_ms,
            driver_version=self._driver,
            devices=None if reading is None else reading.devices,
            allocations=seen,
            contested=self._meter.contested,
            started_ms={a: self._meter.started_ms(a) for a in self._meter.running},
            sources=dict(self._sources),
            recent_xids={uuid: tuple(found) for uuid, found in self._xids.items()},
        )


async def close_all(*closers: Any) -> None:
    """Close what has a ``close``, awaiting where that is needed; a failure does not keep the rest open."""
    for closer in closers:
        with contextlib.suppress(Exception):
            result = closer.close()
            if asyncio.iscoroutine(result):
                await result
