"""How fast a tenant can check a provider's records."""

from __future__ import annotations

import time

import pytest

from gpulease.meter.records import verify_chain
from tests.unit.test_meter_records import PUBLIC, chain

pytestmark = pytest.mark.perf
COUNT = 20_000
LEAST_PER_S = 50_000


def test_records_verified_per_second_on_one_core() -> None:
    records = chain(COUNT)
    best_s = float("inf")
    for _ in range(3):
        began = time.process_time()
        report = verify_chain(records, PUBLIC)
        best_s = min(best_s, time.process_time() - began)
        assert (report.problem, report.count) == (None, COUNT)
    per_s = int(COUNT / best_s)
    print(f"usage records verified: {per_s}/s on one core (bar {LEAST_PER_S}/s)")
    assert per_s >= LEAST_PER_S
