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


def payments_of(account: EscrowAccount, payments: Iterable[EscrowPayment]) -> list[EscrowPayment]:
    """What the chain settles with an account, in its order: debts first, then open payments, each by store key.

    The chain finds them by a prefix without a closing slash, so that owner/1 pays for owner/10 as well.
    """
    prefix = f"{account.scope}/{account.xid}"
    keyed = [(f"{p.scope}/{p.account_xid}/{p.xid}", p) for p in payments]
    mine = sorted(((key, p) for key, p in keyed if key.startswith(prefix)), key=lambda entry: entry[0].encode())
    return [p for state in (EscrowState.OVERDRAWN, EscrowState.OPEN) for _, p in mine if p.state is state]


def project(account: EscrowAccount, payments: Iterable[EscrowPayment], *, height: int) -> Runway:
    """The account at ``height``, which may lie after its last settlement. ``payments`` are all of the account's."""
    funds = _uact(account.funds)
    rates, debt = _dues(payments)
    transferred = _uact(account.transferred)
    if account.state is not EscrowState.OPEN or not (rates or debt):
        return Runway(height, max(funds.truncate(), 0), 0, transferred.truncate(), None)
    whole = max(funds, Dec())
    accrued = min(_settled_after(rates, max(height - account.settled_at, 0)) + debt, whole)
    # In debt already: every settlement finds it so, however little accrues.
    blocks = 0 if funds < Dec() or whole < debt else _full_blocks(rates, whole - debt)
    return Runway(
        height,
        (whole - accrued).truncate(),
        accrued.truncate(),
        transferred.truncate(),
        None if blocks is None else account.settled_at + blocks,
    )


def _dues(payments: Iterable[EscrowPayment]) -> tuple[list[Dec], Dec]:
    """Rates of what is open, and the debts of what is overdrawn: those are taken at the next settlement."""
    rates, debt = [], Dec()
    for payment in payments:
        if payment.rate.denom != UACT:
            continue
        if payment.state is EscrowState.OPEN and payment.rate.amount.raw > 0:
            rates.append(payment.rate.amount)
        elif payment.state is EscrowState.OVERDRAWN:
            debt = debt + payment.unsettled.amount
    return rates, debt


def _settled_after(rates: Sequence[Dec], blocks: int) -> Dec:
    """What one settlement takes after so many blocks: whole units per payment, fractions dropped (reference §3.2)."""
    return Dec.of(sum((rate * blocks).truncate() for rate in rates))


def _full_blocks(rates: Sequence[Dec], funds: Dec) -> int | None:
    """The most blocks one settlement can cover, None for no end. Dropped fractions stretch it beyond funds by rate."""
    total_raw = sum(rate.raw for rate in rates)
    if not total_raw:
        return None
    low = funds.raw // total_raw
    high = (funds.raw + len(rates) * DEC_SCALE) // total_raw
    while low < high:
        middle = (low + high + 1) // 2
        if _settled_after(rates, middle) <= funds:
            low = middle
        else:
            high = middle - 1
    return low


def owed_uact(
    payment: EscrowPayment, account: EscrowAccount, *, height: int, payments: Iterable[EscrowPayment] = ()
) -> int:
    """What a withdrawal at ``height`` would pay out for this payment, in whole ``uact``.

    ``payments`` are all of the account's (:func:`payments_of`): where the funds do not cover them, the chain serves
    them in order, not in proportion. At the height of the last settlement a withdrawal would fail; its answer then is
    what the next one finds settled.
    """
    settled = payment.balance.amount if payment.balance.denom == UACT else Dec()
    if payment.state is not EscrowState.OPEN or account.state is not EscrowState.OPEN:
        return settled.truncate()
    left = _uact(account.funds)
    if left < Dec():
        return 0
    blocks = max(height - account.settled_at, 0)
    for other in payments_of(account, payments) or [payment]:
        if other.state is EscrowState.OVERDRAWN:
            due = other.unsettled.amount
        else:
            due = Dec.of((other.rate.amount * blocks).truncate())
        taken = min(due, left)
        if (other.account_xid, other.xid) == (payment.account_xid, payment.xid):
            return (settled + taken).truncate()
        left = left - taken
    return settled.truncate()
