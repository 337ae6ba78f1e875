"""The tree under a settlement's root, proofs of single records, and the memo."""

from __future__ import annotations

import hashlib

import pytest

from gpulease.meter.merkle import Anchor, inclusion_proof, is_included, merkle_root, parse_memo, settlement_memo

pytestmark = pytest.mark.unit
LEAVES = [bytes([n]) * 32 for n in range(40)]
MAX_MEMO_CHARACTERS = 256
"""auth's ``max_memo_characters`` on the chain."""


def by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1 word for word: split at the largest power of two below the count."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + by_definition(leaves[:split]) + by_definition(leaves[split:])).digest()


@pytest.mark.parametrize("count", range(34))
def test_the_root_is_the_one_of_the_standard(count: int) -> None:
    assert merkle_root(LEAVES[:count]) == by_definition(LEAVES[:count])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 21])
def test_every_record_can_be_shown_alone_and_no_other_in_its_place(count: int) -> None:
    root = merkle_root(LEAVES[:count])
    for index in range(count):
        proof = inclusion_proof(LEAVES[:count], index)
        assert is_included(LEAVES[index], index=index, count=count, proof=proof, root=root)
        assert not is_included(LEAVES[39], index=index, count=count, proof=proof, root=root)
        assert not is_included(LEAVES[index], index=count, count=count, proof=proof, root=root)
        assert not is_included(LEAVES[index], index=index, count=count, proof=(*proof, b"\0" * 32), root=root)
        if proof:
            assert not is_included(LEAVES[index], index=index, count=count, proof=proof[:-1], root=root)
            assert not is_included(LEAVES[index], index=index ^ 1, count=count, proof=proof, root=root)


def test_there_is_no_proof_for_what_is_not_there() -> None:
    with pytest.raises(IndexError, match="no record 3 among 3"):
        inclusion_proof(LEAVES[:3], 3)


def test_an_inner_node_is_no_leaf() -> None:
    inner = hashlib.sha256(b"\0" + LEAVES[0]).digest() + hashlib.sha256(b"\0" + LEAVES[1]).digest()
    assert merkle_root([inner]) != merkle_root(LEAVES[:2])


def test_a_memo_is_read_back_and_fits_the_chain() -> None:
    hashes = [leaf.hex() for leaf in LEAVES]
    memo = settlement_memo(hashes, first=10**17)
    assert parse_memo(memo) == Anchor(merkle_root(LEAVES).hex(), 10**17, 10**17 + 39)
    assert len(memo) <= 133 < MAX_MEMO_CHARACTERS
    assert settlement_memo([], first=1) == ""


@pytest.mark.parametrize(
    "memo",
    [
        "",
        "thanks",
        "gpulease:v1:" + "0" * 63 + ":1:1-1",
        "gpulease:v2:" + "0" * 64 + ":1:1-1",
        "gpulease:v1:" + "0" * 64 + ":2:1-1",
        "gpulease:v1:" + "0" * 64 + ":0:1-0",
        "gpulease:v1:" + "0" * 64 + ":1:1-1 ",
        "gpulease:v1:" + "0" * 64 + ":1:1-1\n",
        "gpulease:v1:" + "A" * 64 + ":1:1-1",
    ],
)
def test_other_memos_are_none_of_ours(memo: str) -> None:
    assert parse_memo(memo) is None
