"""Money against a block-by-block simulation of the chain's escrow (reference §3.2)."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpulease.market.model import EscrowAccount, EscrowPayment, EscrowState
from gpulease.money.ledger import Ledger, Transfer, entries_of
from gpulease.money.runway import owed_uact, project
from gpulease.money.settlement import RUN_OUT_MARGIN_BLOCKS, SettlementPolicy, decide
from gpulease.units import DEC_SCALE, Coin, Dec, DecCoin

pytestmark = pytest.mark.property
RATE = st.integers(DEC_SCALE // 100, 40 * DEC_SCALE).map(Dec) | st.integers(1, 40).map(Dec.of)
NOTHING = Dec()


def account(funds: Dec, settled_at: int) -> EscrowAccount:
    return EscrowAccount("deployment", "o/1", "o", EscrowState.OPEN, settled_at, (DecCoin("uact", funds),), (), ())


def payment(rate: Dec, balance: Dec = NOTHING) -> EscrowPayment:
    zero = DecCoin("uact", NOTHING)
    return EscrowPayment(
        "deployment", "o/1", "1/1/p", "p", EscrowState.OPEN, DecCoin("uact", rate), DecCoin("uact", balance), zero,
        Coin("uact", 0),
    )  # fmt: skip


@given(st.lists(RATE, min_size=1, max_size=4), st.integers(0, 2000 * DEC_SCALE).map(Dec), st.integers(0, 10**8))
def test_run_out_height_is_the_last_height_a_settlement_finds_enough(
    rates: list[Dec], funds: Dec, settled_at: int
) -> None:
    if sum(r.raw for r in rates) * 5000 < funds.raw:
        funds = Dec(funds.raw // 1000)
    run_out = project(account(funds, settled_at), [payment(r) for r in rates], height=settled_at).run_out_height
    assert run_out is not None

    def covered(height: int) -> bool:
        taken = sum(int(Fraction(r.raw, DEC_SCALE) * (height - settled_at)) for r in rates)
        return Fraction(taken) <= Fraction(funds.raw, DEC_SCALE)

    assert covered(run_out)
    assert not covered(run_out + 1)


@given(RATE, st.integers(1, 3000), st.integers(1, 200), st.integers(0, 500))
def test_a_lease_settled_by_the_rule_ends_one_block_after_its_money(
    rate: Dec, deposit: int, period: int, threshold: int
) -> None:
    """Plays the provider against the chain: every block it looks, and withdraws when told to."""
    deposit = max(min(deposit, rate.raw * 200 // DEC_SCALE), 1)
    policy = SettlementPolicy(period, threshold)
    funds, balance, paid, settled_at, height, withdrawals = Dec.of(deposit), Dec(), 0, 0, 0, 0
    while True:
        height += 1
        state = account(funds, settled_at)
        own = payment(rate, balance)
        run_out = project(state, [own], height=height).run_out_height
        assert run_out is not None
        owed = owed_uact(own, state, height=height)
        decision = decide(policy, height=height, settled_at=settled_at, owed_uact=owed, run_out_height=run_out)
        assert decision.next_check_height is not None
        assert decision.next_check_height > height
        if not decision.withdraw:
            assert height <= run_out
            continue
        assert height > settled_at
        due = Dec.of((rate * (height - settled_at)).truncate())
        taken = min(due, funds)
        balance, funds, settled_at = balance + taken, funds - taken, height
        assert balance.truncate() == owed
        paid, balance = paid + balance.truncate(), balance - Dec.of(balance.truncate())
        withdrawals += 1
        if due > taken:
            assert height == run_out + 1
            break
        assert owed > 0
    assert paid == deposit
    assert withdrawals <= height // min(period, RUN_OUT_MARGIN_BLOCKS + 1) + height * bool(threshold) + 2


NAMES = st.sampled_from(["us", "cold", "escrow", "tenant", "fees"])
COINS = st.dictionaries(st.sampled_from(["uact", "uakt"]), st.integers(0, 10**15), max_size=2)


@given(st.lists(st.tuples(NAMES, NAMES, COINS), max_size=30), st.integers(0, 3))
def test_the_ledger_follows_the_bank_however_often_it_is_read(
    transfers: list[tuple[str, str, dict[str, int]]], repeats: int
) -> None:
    ours = frozenset({"us", "cold"})
    bank: dict[tuple[str, str], int] = {}
    book = Ledger()
    for height, (sender, recipient, coins) in enumerate(transfers):
        for denom, amount in coins.items():
            bank[sender, denom] = bank.get((sender, denom), 0) - amount
            bank[recipient, denom] = bank.get((recipient, denom), 0) + amount
        text = ",".join(f"{amount}{denom}" for denom, amount in coins.items())
        for _ in range(repeats + 1):
            moved = [Transfer(sender, recipient, text)]
            for entry in entries_of(moved, source=f"b{height}", height=height, memo="", accounts=ours):
                book.post(entry)
        for denom in ("uact", "uakt"):
            assert book.total(denom) == 0
    for name in ours:
        assert book.difference(name, {d: a for (n, d), a in bank.items() if n == name}) == {}
