"""Whose fault an XID is, what takes a device out of sale, and what brings it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gpulease.inventory.facts import DeviceFacts, NodeFacts, XidEvent, node_facts
from gpulease.inventory.health import (
    CLEAN_FOR_MS,
    Cause,
    Heals,
    Judgement,
    Known,
    Quarantine,
    judge,
    parse_table,
    policy_table,
    troubles_of,
)

pytestmark = pytest.mark.unit
T0 = 1_750_000_000_000


def facts(*devices: DeviceFacts, at_ms: int = T0, boot: str = "b1") -> NodeFacts:
    return NodeFacts("n1", boot, at_ms, "570.133.20", devices or (DeviceFacts("GPU-0"), DeviceFacts("GPU-1", 1)))


def sick(uuid: str = "GPU-0", *xids: tuple[int, int], **changes: Any) -> DeviceFacts:
    events = tuple(XidEvent(at_ms, code) for at_ms, code in xids)
    return replace(DeviceFacts(uuid, xids=events), **changes)


def quarantined(verdict: Judgement) -> dict[str, tuple[str, bool]]:
    found = {uuid: known.quarantine for uuid, known in verdict.known.items()}
    return {u: (q.sign, q.stops_meter) for u, q in found.items() if q is not None and not q.suspected}


def follow(*looks: NodeFacts, **options: Any) -> Judgement:
    known: Mapping[str, Known] = {}
    verdict = Judgement(known)
    for look in looks:
        verdict = judge(look, known, **options)
        known = verdict.known
    return verdict


@pytest.mark.parametrize("code", [13, 31, 43, 45, 68, 94, 63])
def test_what_an_application_does_or_a_driver_only_notes_quarantines_nothing(code: int) -> None:
    verdict = judge(facts(sick("GPU-0", (T0 - 5, code))), {})
    assert quarantined(verdict) == {}
    tenant = policy_table().xid(code).cause is Cause.TENANT
    assert [f.code for f in verdict.tenant_faults] == ([code] if tenant else [])
    # The same answer again is no news.
    assert judge(facts(sick("GPU-0", (T0 - 5, code)), at_ms=T0 + 5000), verdict.known).tenant_faults == ()


@pytest.mark.parametrize(
    ("code", "heals"), [(79, "reboot"), (109, "reset"), (95, "reset"), (64, "never"), (48, "reset")]
)
def test_a_hardware_xid_stops_the_meter_at_the_fault(code: int, heals: str) -> None:
    verdict = judge(facts(sick("GPU-0", (T0 - 4321, code)), DeviceFacts("GPU-1", 1)), {})
    assert quarantined(verdict) == {"GPU-0": (f"XID {code}", True)}
    (found,) = verdict.quarantined
    assert (found.fault_ms, found.heals.value) == (T0 - 4321, heals)
    again = judge(facts(sick("GPU-0", (T0 - 4321, code)), at_ms=T0 + 5000), verdict.known)
    assert (again.quarantined, again.known["GPU-0"].quarantine is not None) == ((), True)


@pytest.mark.parametrize("code", [74, 78, 999])
def test_a_link_error_or_an_unknown_xid_only_ends_the_sale(code: int) -> None:
    assert quarantined(judge(facts(sick("GPU-0", (T0, code))), {})) == {"GPU-0": (f"XID {code}", False)}


def test_a_memory_error_that_was_contained_is_excused_but_not_when_worse_follows() -> None:
    assert quarantined(judge(facts(sick("GPU-0", (T0, 48), (T0 + 10, 94))), {})) == {}
    worse = judge(facts(sick("GPU-0", (T0, 48), (T0 + 10, 94), (T0 + 20, 95))), {})
    assert quarantined(worse) == {"GPU-0": ("XID 48", True)}
    far = judge(facts(sick("GPU-0", (T0, 48), (T0 + 3_600_000, 94))), {})
    assert quarantined(far) == {"GPU-0": ("XID 48", True)}


@pytest.mark.parametrize(
    ("changes", "sign"),
    [
        ({"recovery_action": 1}, ("RecoveryAction 1", True)),
        ({"recovery_action": 2}, ("RecoveryAction 2", True)),
        ({"recovery_action": 3}, ("RecoveryAction 3", False)),
        ({"ecc_uncorrected": 2}, ("EccUncorrected", False)),
        ({"row_remap_failed": True}, ("RowRemapFailed", True)),
    ],
)
def test_signs_without_an_xid(changes: dict[str, Any], sign: tuple[str, bool]) -> None:
    assert quarantined(judge(facts(sick("GPU-0", **changes)), {})) == {"GPU-0": sign}


def test_one_failed_call_is_suspected_and_the_second_is_believed() -> None:
    lost = sick("GPU-0", problem="GPU 0 does not answer NVML")
    once = follow(facts(lost))
    assert (quarantined(once), once.quarantined) == ({}, ())
    assert quarantined(follow(facts(lost), facts(lost))) == {}, "the same answer twice is one answer"
    twice = follow(facts(lost), facts(lost, at_ms=T0 + 5000))
    assert quarantined(twice) == {"GPU-0": ("NoAnswer", True)}
    assert twice.quarantined[0].fault_ms == T0, "the meter stands from the first failure on"
    assert quarantined(follow(facts(lost), facts(at_ms=T0 + 5000))) == {}


def test_one_device_never_concerns_the_others() -> None:
    both = facts(sick("GPU-0", (T0, 79), problem="lost"), DeviceFacts("GPU-1", 1), sick("", problem="GPU 2 is lost"))
    assert set(quarantined(follow(both, replace(both, at_ms=T0 + 5000)))) == {"GPU-0"}


def test_only_a_reboot_brings_back_what_fell_off_the_bus() -> None:
    fault = facts(sick("GPU-0", (T0, 79)))
    calm = [facts(at_ms=T0 + 60_000 * n) for n in range(1, 4)]
    assert set(quarantined(follow(fault, *calm))) == {"GPU-0"}
    after = [facts(at_ms=T0 + 600_000 + n, boot="b2") for n in (0, CLEAN_FOR_MS - 1, CLEAN_FOR_MS)]
    assert set(quarantined(follow(fault, *after[:2]))) == {"GPU-0"}
    healed = follow(fault, *after)
    assert (quarantined(healed), [q.uuid for q in healed.released]) == ({}, ["GPU-0"])


def test_a_reset_is_proved_by_the_recovery_action_going_away() -> None:
    fault = facts(sick("GPU-0", (T0, 119), recovery_action=1))
    calm = [facts(sick("GPU-0", recovery_action=0), at_ms=T0 + 10_000 + n) for n in (0, CLEAN_FOR_MS)]
    assert quarantined(follow(fault, *calm)) == {}
    # Without such a proof calm alone is none.
    silent = facts(sick("GPU-0", (T0, 119)))
    assert set(quarantined(follow(silent, *calm))) == {"GPU-0"}


def test_what_is_broken_for_good_is_released_by_a_person_only() -> None:
    fault = facts(sick("GPU-0", (T0, 64)))
    boots = [facts(at_ms=T0 + n, boot="b2") for n in (1, CLEAN_FOR_MS + 1, 2 * CLEAN_FOR_MS)]
    broken = follow(fault, *boots)
    assert set(quarantined(broken)) == {"GPU-0"}
    freed = judge(facts(at_ms=T0 + 10**6, boot="b2"), broken.known, released=frozenset({"GPU-0"}))
    assert (quarantined(freed), [q.uuid for q in freed.released]) == ({}, ["GPU-0"])


def test_a_release_settles_what_was_seen_and_a_new_fault_counts_again() -> None:
    seen = sick("GPU-0", (T0, 79))
    known = judge(facts(seen), {}).known
    freed = judge(facts(seen, at_ms=T0 + 1000), known, released=frozenset({"GPU-0"}))
    assert quarantined(judge(facts(seen, at_ms=T0 + 2000), freed.known)) == {}
    newer = sick("GPU-0", (T0, 79), (T0 + 3000, 79))
    assert quarantined(judge(facts(newer, at_ms=T0 + 4000), freed.known)) == {"GPU-0": ("XID 79", True)}


def test_a_graver_fault_of_a_watched_device_stops_the_meter_then() -> None:
    verdict = follow(facts(sick("GPU-0", (T0, 74))), facts(sick("GPU-0", (T0, 74), (T0 + 500, 79)), at_ms=T0 + 900))
    assert quarantined(verdict) == {"GPU-0": ("XID 79", True)}
    assert [q.fault_ms for q in verdict.quarantined] == [T0 + 500]


def test_what_is_remembered_survives_json() -> None:
    found = judge(facts(sick("GPU-0", (T0, 79))), {}).known["GPU-0"].quarantine
    assert found is not None
    assert Quarantine.from_json(found.to_json()) == found


def test_the_shipped_table_is_dated_and_names_each_code_once() -> None:
    table = policy_table()
    assert table.version.startswith("20")
    assert {Cause.TENANT, Cause.NOTE, Cause.WATCH, Cause.HARDWARE} == {rule.cause for rule in table.xids.values()}
    assert all(rule.words for rule in (*table.xids.values(), *table.actions.values(), *table.signs.values()))
    twice = {"codes": [79], "cause": "note", "words": "x"}
    raw = {"version": "x", "xids": [twice, twice], "unknown_xid": twice, "recovery_actions": [], "signs": {}}
    with pytest.raises(ValueError, match="79 is named twice"):
        parse_table({**raw, "unless_within_ms": 1})


def test_a_lease_is_told_of_its_own_devices() -> None:
    q = Quarantine("n1", "GPU-0", "XID 79", "gone", T0, "b1", True, Heals.REBOOT)
    fault = judge(facts(sick("GPU-1", (T0, 31))), {}).tenant_faults[0]
    told = troubles_of(("GPU-0", "GPU-1", "GPU-2"), {"GPU-0": q}, {"GPU-1": fault})
    assert [(t.uuid, t.sign, t.tenant, t.stops_meter) for t in told] == [
        ("GPU-0", "XID 79", False, True),
        ("GPU-1", "XID 31", True, False),
    ]
    assert troubles_of(("GPU-0",), {"GPU-0": replace(q, suspected=True)}, {}) == ()


def test_facts_are_read_from_the_agents_answer_and_nothing_else() -> None:
    answer = {"node": "n1", "boot_id": "b", "at_ms": 7, "driver_version": None}
    device = {"uuid": "GPU-0", "index": 0, "xids": [{"at_ms": 5, "xid": 31}], "mig_enabled": True, "mig": ["MIG-1"]}
    read = node_facts({**answer, "devices": [device]})
    assert read.device("MIG-1") == read.device("GPU-0") == read.devices[0]
    assert (read.driver_version, read.devices[0].xids) == ("", (XidEvent(5, 31),))
    for broken in (
        {},
        {**answer, "devices": [{}]},
        {**answer, "devices": [{"uuid": "x", "xids": [3]}]},
        {**answer, "devices": 3},
    ):
        with pytest.raises(Exception, match="no list of devices"):
            node_facts(broken)
