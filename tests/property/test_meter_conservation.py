"""Whatever is seen in whatever order: no device is counted twice, and nothing unseen is counted."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from gpulease.meter.evidence import Sample, Window
from gpulease.meter.intervals import Allocation, IntervalMeter, Span, Timeline
from gpulease.meter.records import canonical

pytestmark = pytest.mark.property
MAX_GAP_MS = 3000
ALL = [Allocation(ns, "p", "c", gpu) for ns in ("a", "b") for gpu in ("GPU-0", "GPU-1")]
STEP = st.tuples(
    st.integers(1, 10_000),  # monotonic ms since the step before
    st.sampled_from([0, 0, 0, 3_600_000, -3_600_000, 2500]),  # how far the wall clock was set
    st.one_of(st.none(), st.sets(st.sampled_from(ALL))),  # None: the read failed
    st.sampled_from(["", "", "cut", "restart", "reboot"]),
)


@given(st.lists(STEP, max_size=40))
def test_spans_are_disjoint_and_hold_only_sighted_time(steps: list[Any]) -> None:
    mono_ms, wall_ms = 0, 1_000_000
    line, meter = Timeline(wall_ns=wall_ms * 10**6, mono_ns=0), IntervalMeter(max_gap_ms=MAX_GAP_MS)
    spans: list[Span] = []
    sighted: dict[Allocation, int] = defaultdict(int)
    before: tuple[int, set[Allocation]] = (0, set())
    for elapsed, jump, seen, event in steps:
        mono_ms, wall_ms = mono_ms + elapsed, wall_ms + elapsed + jump
        if event in ("restart", "reboot"):
            spans += meter.cut()
            last = {s.allocation: s for s in spans}
            floor = max((s.to_ms for s in spans), default=0)
            line = Timeline(wall_ns=wall_ms * 10**6, mono_ns=mono_ms * 10**6, floor_ms=floor)
            meter = IntervalMeter(max_gap_ms=MAX_GAP_MS)
            meter.resume(s for s in last.values() if s.open)
            if event == "reboot":
                spans += meter.end_all()
            before = (mono_ms, set())
        moment = line.at(wall_ns=wall_ms * 10**6, mono_ns=mono_ms * 10**6)
        if seen is not None:
            spans += meter.observe(moment, seen)
            counted = seen - set(meter.contested)
            if mono_ms - before[0] <= MAX_GAP_MS:
                for allocation in counted & before[1]:
                    sighted[allocation] += mono_ms - before[0]
            before = (mono_ms, counted)
        if event == "cut":
            spans += meter.cut()
    spans += meter.end_all()
    by_device: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_device[span.allocation.device_uuid].append(span)
    for held in by_device.values():
        for earlier, later in pairwise(held):
            assert earlier.to_ms <= later.from_ms
        assert sum(s.to_ms - s.from_ms for s in held) <= mono_ms + MAX_GAP_MS * sum(e[3] == "restart" for e in steps)
    if not any(event in ("restart", "reboot") for *_, event in steps):
        for allocation in ALL:
            counted_ms = sum(s.to_ms - s.from_ms for s in spans if s.allocation == allocation)
            assert counted_ms == sighted[allocation]


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 500), st.booleans(), st.booleans()), min_size=1))
def test_energy_is_conserved_between_resets(steps: list[tuple[int, int, bool, bool]]) -> None:
    window = Window(from_ms=0, max_gap_ms=MAX_GAP_MS)
    ms, energy, epoch, expected, recorded = 0, 0, 0, 0, 0
    window.add(Sample(0, energy_mj=0, epoch="0"))
    for elapsed, delta, reset, cut in steps:
        ms += elapsed
        energy = delta if reset else energy + delta
        epoch += reset
        expected += 0 if reset else delta
        window.add(Sample(ms, energy_mj=energy, epoch=str(epoch)))
        if cut:
            recorded += window.close(ms).energy_mj or 0
    assert recorded + (window.close(ms).energy_mj or 0) == expected


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(st.characters(max_codepoint=127)), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_canonical_form_equals_the_standards_own(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)
