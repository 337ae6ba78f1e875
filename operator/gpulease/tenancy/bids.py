"""Which bid to take: the cheapest one that is open, affordable and whose provider can be reached.

Equal prices are decided by the older bid, then by address, so that two looks at the same bids agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpulease.ids import LeaseId
from gpulease.market.model import Bid, BidState, ProviderRecord
from gpulease.units import UACT, Dec


@dataclass(frozen=True, slots=True)
class JudgedBid:
    """``reason`` says why the bid is or is not acceptable."""

    bid: Bid
    acceptable: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    judged: tuple[JudgedBid, ...]
    winner: LeaseId | None
    reason: str


def choose(bids: Iterable[Bid], *, ceiling: Dec, providers: Mapping[str, ProviderRecord]) -> Choice:
    """Judge all bids of one order; ``ceiling`` is the tenant's limit in ``uact`` per block."""
    judged = tuple(sorted((_judge(bid, ceiling, providers) for bid in bids), key=_rank))
    acceptable = [entry for entry in judged if entry.acceptable]
    if acceptable:
        best = acceptable[0]
        return Choice(judged, best.bid.id, f"cheapest of {len(acceptable)} acceptable bids at {best.bid.price}")
    if not judged:
        return Choice(judged, None, "no provider has bid")
    return Choice(judged, None, f"none of {len(judged)} bids is acceptable: {judged[0].reason}")


def _judge(bid: Bid, ceiling: Dec, providers: Mapping[str, ProviderRecord]) -> JudgedBid:
    if bid.state is not BidState.OPEN:
        return JudgedBid(bid, False, f"the bid is {bid.state.value}")
    if bid.price.denom != UACT:
        return JudgedBid(bid, False, f"the price is in {bid.price.denom}, not in {UACT}")
    if bid.price.amount > ceiling:
        return JudgedBid(bid, False, "the price is above spec.maxUsdPerHour")
    record = providers.get(bid.id.provider)
    if record is None:
        return JudgedBid(bid, False, "the provider's record on chain is not known yet")
    if not record.host_uri.startswith("https://"):
        return JudgedBid(bid, False, f"the provider's host URI {record.host_uri!r} is not https")
    return JudgedBid(bid, True, "acceptable")


def _rank(entry: JudgedBid) -> tuple[bool, int, int, str]:
    return (not entry.acceptable, entry.bid.price.amount.raw, entry.bid.created_at, entry.bid.id.provider)
