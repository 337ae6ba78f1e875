"""When an escrow account ends, as an exact height (akash reference §2.3).

The chain settles lazily: between settlements an account stands still on chain while its payments accrue. What it
really holds at a height follows from the last settlement, the rates and the blocks since.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpulease.market.model import EscrowAccount, EscrowPayment, EscrowState
from gpulease.units import DEC_SCALE, UACT, Dec, DecCoin


@dataclass(frozen=True, slots=True)
class Runway:
    """Amounts in ``uact`` at ``height``, if one settlement happened there.

    ``run_out_height`` is the last block whose settlement is paid in full, None where nothing accrues. Settlements
    before it can only move it later, because each drops fractions.
    """

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
    rates = [p.rate.amount for p in payments if p.rate.denom == UACT and p.state is EscrowState.OPEN]
    rates = [rate for rate in rates if rate.raw > 0]
    transferred = _uact(account.transferred)
    if account.state is not EscrowState.OPEN or not rates:
        return Runway(height, max(funds.truncate(), 0), 0, transferred.truncate(), None)
    whole = max(funds, Dec())
    accrued = min(_settled_after(rates, max(height - account.settled_at, 0)), whole)
    return Runway(
        height,
        (whole - accrued).truncate(),
        accrued.truncate(),
        transferred.truncate(),
        account.settled_at + _full_blocks(rates, whole),
    )


def _settled_after(rates: Sequence[Dec], blocks: int) -> Dec:
    """What one settlement takes after so many blocks: whole units per payment, fractions dropped (reference §3.2)."""
    return Dec.of(sum((rate * blocks).truncate() for rate in rates))


def _full_blocks(rates: Sequence[Dec], funds: Dec) -> int:
    """The most blocks one settlement can cover. Dropped fractions stretch it beyond funds divided by rate."""
    total_raw = sum(rate.raw for rate in rates)
    low = funds.raw // total_raw
    high = (funds.raw + len(rates) * DEC_SCALE) // total_raw
    while low < high:
        middle = (low + high + 1) // 2
        if _settled_after(rates, middle) <= funds:
            low = middle
        else:
            high = middle - 1
    return low


def owed_uact(payment: EscrowPayment, account: EscrowAccount, *, height: int) -> int:
    """What a withdrawal at ``height`` would pay out for this payment, in whole ``uact``."""
    settled = payment.balance.amount.raw if payment.balance.denom == UACT else 0
    if payment.state is not EscrowState.OPEN or account.state is not EscrowState.OPEN:
        return Dec(settled).truncate()
    funds = max(_uact(account.funds), Dec())
    accrued = min(_settled_after([payment.rate.amount], max(height - account.settled_at, 0)), funds)
    return Dec(settled + accrued.raw).truncate()
