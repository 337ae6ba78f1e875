"""Intervals: what is seen is counted, what is not seen is marked."""

from __future__ import annotations

import pytest

from gpulease.meter.intervals import Allocation, IntervalMeter, Moment, Span, Timeline

pytestmark = pytest.mark.unit
A = Allocation("ns-a", "web-0", "web", "GPU-0")
B = Allocation("ns-b", "job-0", "job", "GPU-0")
C = Allocation("ns-b", "job-0", "job", "GPU-1")
S = 1_000_000_000


def meter() -> IntervalMeter:
    return IntervalMeter(max_gap_ms=3000)


def test_an_interval_begins_at_the_first_and_ends_at_the_last_sighting() -> None:
    m = meter()
    assert m.observe(Moment(1000), [A]) == [Span(A, 1000, 1000, 1000)]
    assert m.observe(Moment(2000), [A]) == []
    assert m.cut() == [Span(A, 1000, 1000, 2000)]
    assert m.cut() == []
    assert m.observe(Moment(3000), [A]) == []
    assert m.observe(Moment(4000), []) == [Span(A, 1000, 2000, 3000, open=False)]
    assert m.running == frozenset()


def test_unseen_time_splits_the_interval_and_is_not_counted() -> None:
    m = meter()
    m.observe(Moment(0), [A])
    m.observe(Moment(1000), [A])
    assert m.observe(Moment(9000), [A]) == [Span(A, 0, 0, 1000)]
    m.observe(Moment(10_000), [A])
    assert m.cut() == [Span(A, 0, 9000, 10_000, gap_ms=8000)]


def test_two_gaps_in_a_row_add_up() -> None:
    m = meter()
    for ms in (0, 5000, 10_000, 10_500):
        m.observe(Moment(ms), [A])
    assert m.cut() == [Span(A, 0, 10_000, 10_500, gap_ms=10_000)]


def test_a_device_has_one_holder_and_the_first_keeps_it() -> None:
    m = meter()
    m.observe(Moment(0), [B, C])
    assert m.observe(Moment(1000), [A, B, C]) == []
    assert m.contested == (A,)
    assert m.observe(Moment(2000), [A, C]) == [Span(B, 0, 0, 1000, open=False), Span(A, 2000, 2000, 2000)]
    assert m.contested == ()


def test_shares_of_a_device_are_devices_of_their_own() -> None:
    m = meter()
    shares = [Allocation("a", "p", "c", "GPU-0", "0"), Allocation("b", "p", "c", "GPU-0", "1")]
    assert len(m.observe(Moment(0), shares)) == 2


def test_an_interval_is_taken_up_after_a_restart_with_the_gap_marked() -> None:
    m = meter()
    m.resume([Span(A, 100, 4000, 5000)])
    assert m.observe(Moment(65_000), [A]) == []
    m.observe(Moment(66_000), [A])
    assert m.cut() == [Span(A, 100, 65_000, 66_000, gap_ms=60_000)]


def test_an_interval_that_ended_meanwhile_is_closed_where_it_was_last_seen() -> None:
    m = meter()
    m.resume([Span(A, 100, 4000, 5000)])
    assert m.observe(Moment(65_000), []) == [Span(A, 100, 5000, 5000, open=False)]


def test_after_a_reboot_everything_ends() -> None:
    m = meter()
    m.resume([Span(A, 100, 4000, 5000)])
    assert m.end_all() == [Span(A, 100, 5000, 5000, open=False)]


def test_a_clock_set_forward_adds_no_time() -> None:
    line = Timeline(wall_ns=1000 * S, mono_ns=0)
    m = meter()
    m.observe(line.at(wall_ns=1000 * S, mono_ns=0), [A])
    moment = line.at(wall_ns=4601 * S, mono_ns=1 * S)
    assert moment == Moment(4_601_000, 0, 3_600_000)
    assert m.observe(moment, [A]) == [Span(A, 1_000_000, 1_000_000, 1_001_000)]
    m.observe(line.at(wall_ns=4602 * S, mono_ns=2 * S), [A])
    assert m.cut() == [Span(A, 1_000_000, 4_601_000, 4_602_000)]


def test_a_clock_set_back_shows_as_an_offset() -> None:
    line = Timeline(wall_ns=5000 * S, mono_ns=0)
    assert line.at(wall_ns=1401 * S, mono_ns=1 * S) == Moment(5_001_000, -3_600_000)


def test_a_restart_does_not_go_behind_the_last_record() -> None:
    line = Timeline(wall_ns=1000 * S, mono_ns=7, floor_ms=2_000_000)
    assert line.at(wall_ns=1001 * S, mono_ns=S + 7).ms == 2_001_000
