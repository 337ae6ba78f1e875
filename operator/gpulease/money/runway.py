"""When an escrow account ends, as an exact height (akash reference §2.3).

The chain settles lazily: between settlements an account stands still on chain while its payments accrue. What it
really holds at a height follows from the last settlement, the rates and the blocks since.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpulease.market.model import EscrowAccount, EscrowPayment, EscrowState
from gpulease.units import UACT, Dec, DecCoin


@dataclass(frozen=True, slots=True)
class Runway:
    """Amounts in ``uact`` at ``height``; ``run_out_height`` is the last block that is paid in full, None at rate 0."""

    height: int
    funds_uact: int
    accrued_uact: int
    transferred_uact: int
    run_out_height: int | None

    @property
    def deposited_uact(self) -> int:
        """All that was ever put in and not taken out again."""
        return self.funds_uact + self.accrued_uact + self.transferred_uact


def _uact(coins: Iterable[DecCoin]) -> Dec:
    return sum((coin.amount for coin in coins if coin.denom == UACT), Dec())


def project(account: EscrowAccount, payments: Iterable[EscrowPayment], *, height: int) -> Runway:
    """The account at ``height``, which may lie after its last settlement."""
    funds = _uact(account.funds)
    rate = Dec()
    unpaid = Dec()
    for payment in payments:
        if payment.rate.denom == UACT:
            unpaid = unpaid + payment.balance.amount
            if payment.state is EscrowState.OPEN:
                rate = rate + payment.rate.amount
    transferred = _uact(account.transferred)
    if account.state is not EscrowState.OPEN or rate.raw <= 0:
        return Runway(height, max(funds.truncate(), 0), 0, transferred.truncate(), None)
    blocks = max(height - account.settled_at, 0)
    accrued = min(rate.raw * blocks, max(funds.raw, 0))
    full_blocks = max(funds.raw, 0) // rate.raw
    left = Dec(max(funds.raw, 0) - accrued)
    return Runway(
        height,
        left.truncate(),
        Dec(accrued).truncate(),
        transferred.truncate(),
        account.settled_at + full_blocks,
    )


def owed_uact(payment: EscrowPayment, account: EscrowAccount, *, height: int) -> int:
    """What a withdrawal at ``height`` would pay out for this payment, in whole ``uact``."""
    settled = payment.balance.amount.raw if payment.balance.denom == UACT else 0
    if payment.state is not EscrowState.OPEN or account.state is not EscrowState.OPEN:
        return Dec(settled).truncate()
    funds = max(_uact(account.funds).raw, 0)
    accrued = min(payment.rate.amount.raw * max(height - account.settled_at, 0), funds)
    return Dec(settled + accrued).truncate()
