"""What a lease's money looks like between two looks: figures of the last look, moved on by the height read since.

Metrics are asked for more often than leases are looked at, and must not ask the chain: rate and run-out are known, so
the height alone says the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gpulease.chain.reader import Tip
from gpulease.lease.states import MoneyView
from gpulease.tenancy.states import FundsView
from gpulease.units import NS_PER_S, Dec

_HOUR_S = 3600


class Following(Protocol):
    """The part of a chain session that is needed here."""

    @property
    def tip(self) -> Tip: ...


@dataclass(frozen=True, slots=True)
class LeaseFigures:
    """A live lease of ours as the provider. ``gpus`` is what its bid reserved, ``settled_height`` its escrow's."""

    session: Following
    price_uact_per_block: Dec
    gpus: int
    settled_height: int
    settle_every_s: int
    money: MoneyView | None

    @property
    def price_uact_per_hour(self) -> float:
        """A rate for people to read, not an amount: the chain's blocks have no exact hour."""
        block_s = self.session.tip.block_time_ns / NS_PER_S
        return float(self.price_uact_per_block.raw) / float(Dec.of(1).raw) * _HOUR_S / block_s

    @property
    def run_out_height(self) -> int | None:
        return None if self.money is None else self.money.run_out_height

    @property
    def escrow_s(self) -> float | None:
        """Seconds until the funds end, 0 from there on; None while that is not known."""
        return _seconds_left(self.session.tip, self.run_out_height)

    @property
    def settlement_age_s(self) -> float:
        """Since the escrow account was last settled on chain."""
        return _seconds(self.session.tip, self.session.tip.height - self.settled_height)

    @property
    def settlement_overdue_s(self) -> float:
        """By how much the provider's settlement period has passed with something to withdraw."""
        owed = self.money is not None and self.money.owed_uact > 0
        return max(self.settlement_age_s - self.settle_every_s, 0.0) if owed else 0.0

    @property
    def unpaid_gpu_s(self) -> float:
        """GPU time held since the block at which the funds ended."""
        if self.run_out_height is None:
            return 0.0
        return self.gpus * _seconds(self.session.tip, self.session.tip.height - self.run_out_height)


@dataclass(frozen=True, slots=True)
class TenantFigures:
    """A deployment of ours as the tenant."""

    session: Following
    funds: FundsView
    budget_uact: int

    @property
    def budget_left_uact(self) -> int:
        """What may still be put in; at 0 the funds are not topped up any more."""
        return max(self.budget_uact - self.funds.deposited_uact, 0)

    @property
    def escrow_s(self) -> float | None:
        """Seconds until the funds end, 0 from there on; None where nothing accrues."""
        return _seconds_left(self.session.tip, self.funds.run_out_height)


def _seconds(tip: Tip, blocks: int) -> float:
    return max(blocks, 0) * tip.block_time_ns / NS_PER_S


def _seconds_left(tip: Tip, run_out_height: int | None) -> float | None:
    return None if run_out_height is None else _seconds(tip, run_out_height - tip.height)
