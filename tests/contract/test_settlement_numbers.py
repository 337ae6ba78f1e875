"""How a lease's records are numbered for settlements, and the store read by somebody else meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpulease.agent.collector import UsageCollector
from gpulease.errors import StoreError
from gpulease.meter.merkle import parse_memo, settlement_memo
from gpulease.store.journal import Journal
from tests.fakes.usage import UsageNode

pytestmark = pytest.mark.contract


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "operator.db")


async def test_records_of_all_nodes_are_numbered_as_they_come(journal: Journal) -> None:
    collector, one, two = UsageCollector(journal), UsageNode("n1"), UsageNode("n2", b"\x09" * 32)
    expected = [record["hash"] for record in one.hold("ns", count=2)]
    one.hold("another", count=3, device="GPU-1")
    await collector.collect("n1", one)
    expected += [record["hash"] for record in two.hold("ns", count=1, device="GPU-2")]
    await collector.collect("n2", two)
    expected += [record["hash"] for record in one.hold("ns", count=1, device="GPU-3")]
    await collector.collect("n1", one)
    batch = collector.records_since("ns", collector.settled("ns"))
    assert (batch.first, batch.last, batch.hashes) == (1, 4, tuple(expected))
    assert batch.memo == settlement_memo(expected, first=1)
    part = collector.records_since("ns", 1, limit=2)
    assert (part.first, part.last, part.hashes) == (2, 3, tuple(expected[1:3]))
    anchor = parse_memo(part.memo)
    assert anchor is not None
    assert (anchor.first, anchor.last) == (2, 3)


async def test_what_is_settled_never_goes_back_and_nothing_new_has_no_memo(journal: Journal) -> None:
    collector, node = UsageCollector(journal), UsageNode()
    node.hold("ns", count=3)
    await collector.collect("n1", node)
    assert collector.settled("ns") == 0
    collector.note_withdrawn("ns", "thanks")
    assert collector.settled("ns") == 0
    collector.note_withdrawn("ns", collector.records_since("ns", 0).memo)
    collector.mark_settled("ns", 2)
    assert collector.settled("ns") == 3
    batch = collector.records_since("ns", 3)
    assert (batch.first, batch.last, batch.memo) == (4, 3, "")
    assert collector.records_since("never seen", 0).memo == ""


async def test_records_taken_again_keep_their_numbers_and_every_key_is_kept(journal: Journal) -> None:
    collector, node, renewed = UsageCollector(journal), UsageNode(), UsageNode("n1", b"\x08" * 32, 2_000_000)
    node.hold("ns", count=2)
    await collector.collect("n1", node)
    before = collector.records_since("ns", 0)
    collector.forget_node("n1")
    await collector.collect("n1", node)
    assert collector.records_since("ns", 0) == before
    collector.forget_node("n1")
    renewed.hold("ns", count=1)
    await collector.collect("n1", renewed)
    assert collector.records_since("ns", 0).last == 3
    assert collector.keys("n1") == (node.key, renewed.key)
    assert collector.keys("n2") == ()


async def test_a_store_in_use_is_read_and_never_written(journal: Journal, tmp_path: Path) -> None:
    reader = Journal(tmp_path / "operator.db", read_only=True)
    collector, node = UsageCollector(journal), UsageNode()
    node.hold("ns", count=1)
    await collector.collect("n1", node)
    assert UsageCollector(reader).records_since("ns", 0).last == 1
    with pytest.raises(StoreError, match="refused a write"):
        UsageCollector(reader).mark_settled("ns", 1)
    reader.close()
    journal.close()
    again = Journal(tmp_path / "operator.db", read_only=True)
    assert UsageCollector(again).settled("ns") == 0
    again.close()


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        Journal(tmp_path / "none.db", read_only=True)
    assert not (tmp_path / "none.db").exists()
