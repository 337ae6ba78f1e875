"""Adding up usage records by lease namespace."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpulease.meter.records import GENESIS, UsageRecord
from gpulease.meter.usage import MAX_NAMED, Usage, by_namespace

pytestmark = pytest.mark.unit


def record(**changes: Any) -> UsageRecord:
    evidence = {"energy_mj": 10, "gap_ms": 0, "mem_used_bytes_max": 5, "util_permille_avg": 500, "xids": []}
    fields: dict[str, Any] = {
        "seq": 1, "node": "n", "boot_id": "b", "namespace": "ns", "pod": "p", "container": "c",
        "device_uuid": "GPU-0", "share": "", "started_ms": 0, "from_ms": 0, "to_ms": 1000, "gpu_ms": 1000,
        "gap_ms": 0, "open": True, "clock_offset_ms": 0, "evidence": evidence, "dcgm": None,
        "prev": GENESIS, "hash": "", "sig": "",
    }  # fmt: skip
    fields["evidence"] = {**evidence, **changes.pop("evidence", {})}
    return UsageRecord(**{**fields, **changes})


def test_records_add_up_by_namespace() -> None:
    found = by_namespace(
        [
            record(),
            record(from_ms=2000, to_ms=4500, gpu_ms=2500, gap_ms=1000, evidence={"util_permille_avg": 100}),
            record(namespace="other", device_uuid="GPU-1"),
        ]
    )
    usage = found["ns"]
    assert (usage.gpu_ms, usage.gpu_seconds, usage.gap_ms, usage.energy_mj) == (3500, 3, 1000, 20)
    assert usage.util_permille_avg == (500 * 1000 + 100 * 2500) // 3500
    assert (usage.first_ms, usage.last_ms, usage.records) == (0, 4500, 2)
    assert usage.devices == ("GPU-0",)
    assert found["other"].devices == ("GPU-1",)
    assert by_namespace([record()], found)["ns"].gpu_ms == 4500


def test_what_runs_now_follows_the_open_mark() -> None:
    usage = by_namespace([record(), record(device_uuid="GPU-1", share="2")])["ns"]
    assert usage.running == {("p", "c", "GPU-0"), ("p", "c", "GPU-1::2")}
    usage = by_namespace([record(open=False)], {"ns": usage})["ns"]
    assert usage.running == {("p", "c", "GPU-1::2")}


def test_what_was_not_measured_is_left_out_of_the_average() -> None:
    unknown = {"util_permille_avg": None, "energy_mj": None, "mem_used_bytes_max": None, "gap_ms": 1000}
    usage = by_namespace([record(), record(evidence=unknown)])["ns"]
    assert (usage.util_permille_avg, usage.evidence_gap_ms, usage.energy_mj) == (500, 1000, 10)
    assert Usage().util_permille_avg is None


def test_names_are_bounded() -> None:
    usage = by_namespace([record(evidence={"xids": list(range(n, n + 30))}) for n in range(0, 300, 30)])["ns"]
    assert len(usage.xids) == MAX_NAMED


def test_totals_survive_being_stored() -> None:
    usage = by_namespace([record(evidence={"xids": [79]}), record(device_uuid="GPU-1")])["ns"]
    assert Usage.from_json(json.loads(json.dumps(usage.to_json()))) == usage
    assert Usage.from_json(Usage().to_json()) == Usage()
