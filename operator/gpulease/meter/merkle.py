"""What a settlement commits to: a Merkle root over usage records, carried in the memo of the withdraw transaction.

Once the memo is in a block, none of the records under its root can be changed, added or taken away unseen, whoever
holds the node's key. The tree is the one of RFC 6962 (leaf and node hashed apart), so that one record can be shown
without the others. Records of one lease are numbered from 1 in the order in which the operator took them in; a memo
names the numbers it covers, so that a gap between two settlements shows on chain.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

_LEAF, _NODE = b"\0", b"\1"
_MEMO = re.compile(r"gpulease:v1:([0-9a-f]{64}):([1-9][0-9]{0,17}):([1-9][0-9]{0,17})-([1-9][0-9]{0,17})")


def merkle_root(hashes: Sequence[bytes]) -> bytes:
    """Root over record hashes (32 bytes each) in order; that of no records is SHA-256 of nothing."""
    level = [_leaf(one) for one in hashes]
    if not level:
        return hashlib.sha256(b"").digest()
    while len(level) > 1:
        level = _above(level)
    return level[0]


def inclusion_proof(hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The siblings from leaf ``index`` (from 0) up to the root; ``IndexError`` outside of the tree."""
    if not 0 <= index < len(hashes):
        raise IndexError(f"there is no record {index} among {len(hashes)}")
    level, path = [_leaf(one) for one in hashes], []
    while len(level) > 1:
        if (sibling := index ^ 1) < len(level):
            path.append(level[sibling])
        level, index = _above(level), index // 2
    return tuple(path)


def is_included(one: bytes, *, index: int, count: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``proof`` leads from record hash ``one``, at ``index`` of ``count``, to ``root``."""
    if not 0 <= index < count:
        return False
    node, last, rest = _leaf(one), count - 1, list(proof)
    while last:
        # The last node of a level with an odd number moves up without a sibling.
        if index ^ 1 <= last:
            if not rest:
                return False
            sibling = rest.pop(0)
            node = _join(sibling, node) if index % 2 else _join(node, sibling)
        index, last = index // 2, last // 2
    return node == root and not rest


def _above(level: list[bytes]) -> list[bytes]:
    # An odd last node moves up unchanged: the same tree as RFC 6962's split at the largest power of two.
    paired = [_join(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
    return paired + level[len(paired) * 2 :]


def _leaf(one: bytes) -> bytes:
    return hashlib.sha256(_LEAF + one).digest()


def _join(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


@dataclass(frozen=True, slots=True)
class Anchor:
    """What a memo says: ``root`` (hexadecimal) covers the lease's records ``first`` to ``last``."""

    root: str
    first: int
    last: int

    @property
    def count(self) -> int:
        return self.last - self.first + 1


def settlement_memo(hashes: Sequence[str], *, first: int) -> str:
    """``gpulease:v1:ROOT:COUNT:FIRST-LAST``, empty for no records. At most 133 of the chain's 256 characters.

    ``hashes`` are the ``hash`` fields of the lease's records ``first``, ``first + 1`` and so on. One memo speaks for
    one lease: the transaction must withdraw from no other.
    """
    if not hashes:
        return ""
    root = merkle_root([bytes.fromhex(one) for one in hashes]).hex()
    return f"gpulease:v1:{root}:{len(hashes)}:{first}-{first + len(hashes) - 1}"


def parse_memo(memo: str) -> Anchor | None:
    """None for a memo that is none of ours, or that contradicts itself."""
    match = _MEMO.fullmatch(memo)
    if match is None:
        return None
    anchor = Anchor(match[1], int(match[3]), int(match[4]))
    return anchor if anchor.count == int(match[2]) else None
