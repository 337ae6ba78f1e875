"""Whatever is done to a file of usage records, the check ends; what was committed to cannot be changed unseen."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpulease.meter.audit import RecordAudit
from gpulease.meter.merkle import inclusion_proof, is_included, merkle_root, parse_memo, settlement_memo
from gpulease.meter.verify import LeaseFacts, Report, Withdrawal, verify
from tests.fakes.usage import UsageNode

pytestmark = pytest.mark.property
FACTS = LeaseFacts("active", "1uact", "0uact", 1_000_000, 1_060_000, True, (1, 9))
COUNT = 8


def made() -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Records of a lease on two nodes, one of them shared with somebody else."""
    one, two = UsageNode("n1"), UsageNode("n2", b"\x09" * 32)
    records = one.hold("ns", count=3)
    one.hold("other", count=1, device="GPU-8")
    records += two.hold("ns", count=3, device="GPU-1", last=True)
    records += one.hold("ns", count=2, device="GPU-2", last=True)
    return records, {"n1": [one.key], "n2": [two.key]}


RECORDS, KEYS = made()
HASHES = [record["hash"] for record in RECORDS]
PAID = [
    Withdrawal(1, "A", settlement_memo(HASHES[:5], first=1)),
    Withdrawal(2, "B", settlement_memo(HASHES[5:], first=6)),
]
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
values = st.recursive(
    scalars, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(st.text(max_size=3), v, max_size=3))
)


def checked(records: list[Any]) -> Report:
    audit = RecordAudit("ns", KEYS)
    for record in records:
        audit.take(record)
    return verify("o/1/1/1/p", audit.findings(), facts=FACTS, withdrawals=PAID, pinned=True)


def test_untouched_records_hold() -> None:
    assert checked(RECORDS).holds
    assert checked(RECORDS).anchored == COUNT == len(RECORDS)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, COUNT - 1), st.sampled_from(sorted(set(RECORDS[0]) - {"sig", "hash"})), values)
def test_no_field_can_be_changed_unseen(at: int, field: str, value: Any) -> None:
    records = copy.deepcopy(RECORDS)
    records[at][field] = value
    same = json.dumps(records[at], sort_keys=True) == json.dumps(RECORDS[at], sort_keys=True)
    assert checked(records).holds == same


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, COUNT - 1), max_size=COUNT + 2))
def test_no_record_can_be_left_out_repeated_or_moved_unseen(order: list[int]) -> None:
    assert checked([RECORDS[at] for at in order]).holds == (order == list(range(COUNT)))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(st.sampled_from(RECORDS), st.dictionaries(st.sampled_from(sorted(RECORDS[0])), values)), max_size=6
    )
)
def test_any_objects_are_judged_without_an_error(bodies: list[Any]) -> None:
    report = checked(bodies)
    assert not report.holds
    json.dumps(report.to_json())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40, unique=True), st.data())
def test_each_leaf_is_proved_in_its_own_place_only(leaves: list[bytes], data: st.DataObject) -> None:
    root, index = merkle_root(leaves), data.draw(st.integers(0, len(leaves) - 1))
    proof = inclusion_proof(leaves, index)
    for other in range(len(leaves)):
        proved = is_included(leaves[index], index=other, count=len(leaves), proof=proof, root=root)
        assert proved == (other == index)


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.from_regex(r"gpulease:v1:[0-9a-f]{64}:[0-9]{1,3}:[0-9]{1,3}-[0-9]{1,3}", fullmatch=True),
    )
)
def test_any_memo_is_read_or_passed_over(memo: str) -> None:
    anchor = parse_memo(memo)
    if anchor is not None:
        assert memo == f"gpulease:v1:{anchor.root}:{anchor.count}:{anchor.first}-{anchor.last}"
        assert anchor.count >= 1
