"""What a tenant is told of records: sound ones, and every way of cheating that shows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from gpulease.meter.audit import MAX_PROBLEMS, Findings, RecordAudit
from gpulease.meter.merkle import settlement_memo
from gpulease.meter.verify import LeaseFacts, Report, Verdict, Withdrawal, verify
from tests.fakes.usage import UsageNode

pytestmark = pytest.mark.unit
NS, LEASE = "lease-ns", "owner/1/1/1/provider"
FACTS = LeaseFacts("active", "1.000000000000000000uact", "7uact", 1_000_000, 1_060_000, True, (10, 99))
Records = list[dict[str, Any]]


def audit(records: Records, keys: dict[str, list[str]] | None = None) -> Findings:
    check = RecordAudit(NS, keys if keys is not None else {"n1": [UsageNode().key]})
    for record in records:
        check.take(record)
    return check.findings()


def paid(records: Records, *ends: int, first: int = 1) -> list[Withdrawal]:
    """One withdrawal for each end, each committing to the records since the one before."""
    found = []
    for at, end in enumerate(ends):
        memo = settlement_memo([r["hash"] for r in records[first - 1 : end]], first=first)
        found.append(Withdrawal(20 + at, f"{at:064X}", memo))
        first = end + 1
    return found


def report(records: Records, withdrawals: list[Withdrawal], facts: LeaseFacts | None = FACTS) -> Report:
    return verify(LEASE, audit(records), facts=facts, withdrawals=withdrawals, pinned=False)


def broken(found: Report) -> set[str]:
    assert found.holds == (not [c for c in found.checks if c.verdict is Verdict.BROKEN])
    return {check.name for check in found.checks if check.verdict is Verdict.BROKEN}


def test_sound_records_hold_and_the_tenant_is_told_what_follows() -> None:
    records = UsageNode().hold(NS, count=10, last=True)
    found = report(records, paid(records, 4, 8))
    assert broken(found) == set()
    assert (found.records, found.anchored, found.gpu_ms) == (10, 8, 10_000)
    assert [s.verdict for s in found.settlements] == [Verdict.HOLDS, Verdict.HOLDS]
    assert any(words.startswith("8 records have not been changed") for words in found.believe)
    assert any("10 GPU-seconds" in words for words in found.believe)
    assert any("16.6 % of the lease's time" in words for words in found.believe)
    assert any(words.startswith("2 records are under no root") for words in found.do_not_believe)
    assert any("keys are the nodes'" in words for words in found.do_not_believe)
    assert found.to_json()["checks"][2]["words"] == "9 links of the hash chain hold."


def test_records_of_others_in_between_are_jumps_and_no_problem() -> None:
    node, records = UsageNode(), []
    for _ in range(3):
        records += node.hold(NS, count=2, last=True)
        node.hold("another lease", count=1, device="GPU-1", last=True)
    found = report(records, paid(records, 6))
    assert broken(found) == set()
    assert "3 links of the hash chain hold; at 2 places" in found.checks[2].words
    assert any("others' records" in words for words in found.do_not_believe)


def test_a_node_that_lost_its_store_begins_anew_with_another_key() -> None:
    old, new = UsageNode(), UsageNode(secret=b"\x08" * 32, now_ms=2_000_000)
    records = [*old.hold(NS, count=3, last=True), *new.hold(NS, count=2, last=True)]
    assert audit(records, {"n1": [old.key, new.key]}).problem_count == 0
    assert "signatures" in audit(records, {"n1": [old.key]}).problems
    again = [*records, *records[3:]]
    assert "chain" in audit(again, {"n1": [old.key, new.key]}).problems


def edit(at: int, **fields: Any) -> Callable[[Records], Records]:
    def apply(records: Records) -> Records:
        records = copy.deepcopy(records)
        records[at] |= fields
        return records

    return apply


@pytest.mark.parametrize(
    ("cheat", "kinds"),
    [
        (edit(3, gpu_ms=1), {"chain", "anchors"}),
        (edit(3, namespace="x"), {"chain", "lease", "anchors"}),
        (edit(3, hash="0" * 64), {"chain", "signatures"}),
        (edit(9, sig="0" * 128), {"signatures"}),
        (edit(9, sig=None), {"signatures"}),
        (edit(3, gpu_ms="many"), {"readable", "anchors"}),
        (edit(3, evidence=[]), {"chain", "readable", "anchors"}),
        (lambda r: r[:2] + r[3:], {"anchors"}),
        (lambda r: r[:5], {"anchors"}),
        (lambda _: [], {"anchors"}),
        (lambda r: r[:3] + r[2:], {"chain", "overlap", "anchors"}),
        (lambda r: [r[1], r[0], *r[2:]], {"chain", "overlap", "anchors"}),
        (lambda r: [*r[:3], {}, *r[3:]], {"readable", "anchors"}),
        (lambda r: [*r[:3], {"x": {1, 2}}, *r[3:]], {"readable", "anchors"}),
    ],
)
def test_cheating_shows(cheat: Callable[[Records], Records], kinds: set[str]) -> None:
    records = UsageNode().hold(NS, count=10, last=True)
    withdrawals = paid(records, 4, 8)
    assert broken(report(cheat(records), withdrawals)) == kinds


def test_records_that_the_node_forges_anew_no_longer_fit_the_chain() -> None:
    records = UsageNode().hold(NS, count=8, last=True)
    forged = UsageNode(now_ms=1_000_001).hold(NS, count=8, last=True)
    assert broken(report(forged, [])) == set()
    assert broken(report(forged, paid(records, 8))) == {"anchors"}


def test_one_device_held_twice_at_once_shows() -> None:
    node = UsageNode()
    records = node.hold(NS, count=2, last=True)
    node.now_ms -= 1500
    records += node.hold(NS, count=1, last=True)
    assert broken(report(records, [])) == {"overlap"}
    other = UsageNode("n2", now_ms=1_001_000)
    both = [*UsageNode().hold(NS, count=3), *other.hold(NS, count=3)]
    problems = audit(both, {"n1": [other.key], "n2": [other.key]}).problems["overlap"]
    assert problems == ("device GPU-0 is claimed by node n1 and node n2 at the same time",)


def test_a_record_left_out_within_an_interval_is_unexplained_time() -> None:
    records = UsageNode().hold(NS, count=5, last=True)
    assert audit(records).unexplained_ms == 0
    assert audit(records[:2] + records[3:]).unexplained_ms == 1000
    assert audit(records[1:]).unexplained_ms == 1000


def test_a_marked_gap_is_explained() -> None:
    node = UsageNode()
    (record,) = node.hold(NS)
    body = {k: v for k, v in record.items() if k not in ("hash", "sig", "seq", "prev")}
    late = node.sign({**body, "from_ms": 1_006_000, "to_ms": 1_007_000, "gap_ms": 5000})
    found = audit([record, late])
    assert (found.gap_ms, found.unexplained_ms, found.problem_count) == (5000, 0, 0)


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        (FACTS, Verdict.HOLDS, "within"),
        (None, Verdict.BROKEN, "no such lease"),
        (LeaseFacts("active", "p", "w", 1_200_000, 1_300_000, True, (1, 2)), Verdict.BROKEN, "200 s before"),
        (LeaseFacts("active", "p", "w", 800_000, 880_000, True, (1, 2)), Verdict.BROKEN, "in the future"),
        (LeaseFacts("closed", "p", "w", 800_000, 880_000, False, (1, 2)), Verdict.OPEN, "not paid"),
        (LeaseFacts("active", "p", "w", None, 1_300_000, True, (1, 2)), Verdict.OPEN, "no longer knows"),
    ],
)
def test_records_belong_into_the_leases_time(facts: LeaseFacts | None, verdict: Verdict, words: str) -> None:
    found = report(UsageNode().hold(NS, count=5), [], facts)
    check = next(c for c in found.checks if c.name == "lifetime")
    assert check.verdict is verdict
    assert words in check.words


def anchors(records: Records, withdrawals: list[Withdrawal], facts: LeaseFacts = FACTS) -> tuple[Verdict, str, int]:
    found = report(records, withdrawals, facts)
    check = next(c for c in found.checks if c.name == "anchors")
    return check.verdict, " ".join((check.words, *check.problems)), found.anchored


def test_what_the_withdrawals_say() -> None:
    records = UsageNode().hold(NS, count=10, last=True)
    whole, cut = paid(records, 4, 8, 10), LeaseFacts("active", "p", "w", None, None, True, (50, 99), False)
    assert anchors(records, whole) == (Verdict.HOLDS, "10 of 10 records are those under 3 roots on chain.", 10)
    verdict, words, count = anchors(records, [whole[0], whole[2]])
    assert (verdict, count) == (Verdict.BROKEN, 4)
    assert "Records 5 to 8 are in no settlement" in words
    verdict, _, count = anchors(records, whole[1:], cut)
    assert (verdict, count) == (Verdict.OPEN, 6)
    spoilt = [{**records[0], "gpu_ms": 1}, *records[1:]]
    verdict, words, count = anchors(spoilt, whole)
    assert (verdict, count, "in no settlement" in words) == (Verdict.BROKEN, 6, False)
    assert anchors(records, [])[0] is Verdict.OPEN
    assert "no longer keeps" in anchors(records, [], cut)[1]
    verdict, words, _ = anchors(records, [Withdrawal(20, "A", ""), Withdrawal(21, "B", "thanks")])
    assert verdict is Verdict.BROKEN
    assert "withdrew 2 times and committed to no records" in words
    shared = Withdrawal(20, "A", whole[0].memo, leases=2)
    assert anchors(records, [shared])[0] is Verdict.BROKEN
    assert anchors(records, [*whole, Withdrawal(30, "C", "")])[0] is Verdict.HOLDS
    assert anchors(records, [*whole, whole[0]])[2] == 10
    assert "ends at record 6; ask the provider" in anchors(records[:6], whole)[1]


def test_sentences_about_problems_are_limited() -> None:
    records = UsageNode().hold("another", count=200)
    found = audit(records)
    assert found.problem_count == 200
    assert len(found.problems["lease"]) == MAX_PROBLEMS


def test_pinned_keys_are_not_doubted() -> None:
    found = verify(LEASE, audit(UsageNode().hold(NS)), facts=FACTS, withdrawals=[], pinned=True)
    assert not any("--node-key" in words for words in found.do_not_believe)
