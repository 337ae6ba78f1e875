"""Evidence windows: counter segments, averages over covered time, gaps."""

from __future__ import annotations

import pytest

from gpulease.meter.evidence import MAX_XIDS, Sample, Window

pytestmark = pytest.mark.unit


def window(from_ms: int = 0) -> Window:
    return Window(from_ms=from_ms, max_gap_ms=3000)


def test_energy_is_the_difference_of_the_counter() -> None:
    w = window()
    for ms, energy in ((0, 5000), (1000, 5300), (2000, 5700)):
        w.add(Sample(ms, energy_mj=energy))
    assert w.close(2000).energy_mj == 700
    w.add(Sample(3000, energy_mj=5750))
    assert w.close(3000).energy_mj == 50


@pytest.mark.parametrize(("second", "epoch"), [(100, "a"), (6000, "b")])
def test_a_reset_adds_nothing(second: int, epoch: str) -> None:
    w = window()
    w.add(Sample(0, energy_mj=5000, epoch="a"))
    w.add(Sample(1000, energy_mj=second, epoch=epoch))
    w.add(Sample(2000, energy_mj=second + 40, epoch=epoch))
    evidence = w.close(2000)
    assert (evidence.energy_mj, evidence.energy_resets) == (40, 1)


def test_energy_of_a_gap_belongs_to_no_span() -> None:
    w = window()
    w.add(Sample(0, energy_mj=0))
    w.add(Sample(1000, energy_mj=10))
    assert w.close(1000, next_from_ms=60_000).energy_mj == 10
    w.add(Sample(60_000, energy_mj=9000))
    w.add(Sample(61_000, energy_mj=9005))
    assert w.close(61_000).energy_mj == 5


def test_utilisation_is_weighted_by_time() -> None:
    w = window()
    w.add(Sample(0, util_permille=0))
    w.add(Sample(1000, util_permille=1000))
    w.add(Sample(4000, util_permille=500))
    evidence = w.close(4000)
    assert (evidence.util_permille_avg, evidence.gap_ms, evidence.samples) == ((1000 + 1500) // 4, 0, 3)


def test_time_without_readings_is_a_gap_and_not_in_the_average() -> None:
    w = window()
    w.add(Sample(1000, util_permille=400, mem_used_bytes=7))
    w.add(Sample(9000, util_permille=400, mem_used_bytes=3))
    evidence = w.close(10_000)
    assert (evidence.gap_ms, evidence.util_permille_avg, evidence.mem_used_bytes_max) == (8000, 400, 7)


def test_nothing_read_is_unknown_and_all_gap() -> None:
    evidence = window().close(5000)
    assert (evidence.energy_mj, evidence.util_permille_avg, evidence.mem_used_bytes_max) == (None, None, None)
    assert evidence.gap_ms == 5000


def test_xids_are_kept_once_each_and_bounded() -> None:
    w = window()
    for code in [79, 13, 79, *range(100, 200)]:
        w.xid(code)
    xids = w.close(1).xids
    assert len(xids) == MAX_XIDS
    assert xids[:2] == (13, 79)
    assert w.close(2).xids == ()
