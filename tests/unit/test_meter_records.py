"""Usage records: canonical form, chain, signatures, Merkle root."""

from __future__ import annotations

from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gpulease.errors import BadInput
from gpulease.meter.evidence import Window
from gpulease.meter.intervals import Allocation, Span
from gpulease.meter.records import GENESIS, UsageRecord, body_of, canonical, seal, verify_chain

pytestmark = pytest.mark.unit
KEY = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
HELD = Allocation("ns", "pod", "web", "GPU-0")


def chain(count: int = 4, **changes: Any) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for n in range(count):
        span = Span(HELD, 0, n * 1000, (n + 1) * 1000, open=n + 1 < count)
        evidence = Window(from_ms=span.from_ms, max_gap_ms=1).close(span.to_ms)
        body = body_of(span, node="n1", boot_id="b", clock_offset_ms=0, evidence=evidence, dcgm=None)
        body = {**body, **changes}
        prev = records[-1]["hash"] if records else GENESIS
        records.append(seal(body, seq=n + 1, prev=prev, sign=KEY.sign))
    return records


def test_a_sound_chain_is_accepted() -> None:
    report = verify_chain(chain(), PUBLIC, prev=GENESIS, every_signature=True)
    assert (report.problem, report.count, report.first_seq, report.last_seq, report.gpu_ms) == (None, 4, 1, 4, 4000)


def test_a_part_of_a_chain_is_accepted() -> None:
    records = chain()
    assert verify_chain(records[2:], PUBLIC).problem is None
    assert verify_chain(records[2:], PUBLIC, prev=records[1]["hash"]).problem is None
    assert "continue" in (verify_chain(records[2:], PUBLIC, prev=records[0]["hash"]).problem or "")


def test_no_records_are_no_problem() -> None:
    assert verify_chain([], PUBLIC).problem is None


@pytest.mark.parametrize("field", ["gpu_ms", "namespace", "device_uuid", "boot_id", "open", "seq", "prev", "extra"])
def test_any_change_is_found(field: str) -> None:
    records = chain()
    records[1] = {**records[1], field: {"gpu_ms": 999, "open": 0, "seq": 9}.get(field, "x")}
    report = verify_chain(records, PUBLIC)
    assert report.problem is not None
    assert report.last_seq == 1


def test_a_missing_record_is_found() -> None:
    records = chain()
    assert "missing" in (verify_chain(records[:1] + records[2:], PUBLIC).problem or "")


def test_a_foreign_signature_is_found_on_the_last_record() -> None:
    records = chain()
    records[-1] = {**records[-1], "sig": records[0]["sig"]}
    assert "not signed" in (verify_chain(records, PUBLIC).problem or "")


def test_a_foreign_signature_in_the_middle_is_found_on_request() -> None:
    records = chain()
    records[1] = {**records[1], "sig": records[0]["sig"]}
    assert verify_chain(records, PUBLIC).problem is None
    assert "record 2 is not signed" in (verify_chain(records, PUBLIC, every_signature=True).problem or "")


@pytest.mark.parametrize(
    ("changes", "words"), [({"gpu_ms": 1001}, "counts"), ({"gpu_ms": -1}, "counts"), ({"from_ms": 0}, "overlaps")]
)
def test_a_node_cannot_sign_more_time_than_there_was(changes: dict[str, Any], words: str) -> None:
    assert words in (verify_chain(chain(**changes), PUBLIC).problem or "")


def test_a_document_that_is_no_record_is_a_problem_and_not_an_error() -> None:
    assert "cannot be read" in (verify_chain([{"seq": 1}], PUBLIC, prev=GENESIS).problem or "")
    assert "cannot be read" in (verify_chain([{"seq": 1, "from_ms": 1.5}], PUBLIC).problem or "")


def test_records_read_back_typed_and_new_fields_survive_the_check() -> None:
    records = chain(2, added_later={"x": 1})
    assert verify_chain(records, PUBLIC).problem is None
    record = UsageRecord.from_json(records[0])
    assert (record.seq, record.namespace, record.gpu_ms, record.open, record.prev) == (1, "ns", 1000, True, GENESIS)
    with pytest.raises(BadInput, match="no usage record"):
        UsageRecord.from_json({"v": 1})
    with pytest.raises(BadInput, match="version 2"):
        UsageRecord.from_json({"v": 2})


def test_canonical_form_is_the_one_of_the_standard() -> None:
    value = {"b": [1, None, True, 'é\u007f\u001f\n"\\/\U0001f600'], "a": {"z": -(2**53) + 1, "A": ""}}
    assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("bad", [1.5, 2**53, {"é": 1}, {1: 2}, b"x", (1,)])
def test_what_has_no_exact_form_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError):
        canonical({"a": bad})
