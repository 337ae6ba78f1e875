"""Ledger, runway and settlement by tables."""

from __future__ import annotations

import pytest

from gpulease.errors import InvariantBroken
from gpulease.market.model import EscrowAccount, EscrowPayment, EscrowState
from gpulease.money.ledger import Ledger, LedgerEntry, Posting, Transfer, entries_of, opening, parse_coins
from gpulease.money.runway import owed_uact, project
from gpulease.money.settlement import SettlementPolicy, decide
from gpulease.units import Coin, Dec, DecCoin

pytestmark = pytest.mark.unit
OURS = frozenset({"us"})


def entries(*transfers: tuple[str, str, str], source: str = "tx/1") -> list[LedgerEntry]:
    return entries_of([Transfer(*t) for t in transfers], source=source, height=7, memo="m", accounts=OURS)


def account(funds: str, *, settled_at: int = 100, state: EscrowState = EscrowState.OPEN) -> EscrowAccount:
    coins = (DecCoin("uact", Dec.of(funds)),) if not funds.startswith("-") else (DecCoin("uact", -Dec.of(funds[1:])),)
    return EscrowAccount("deployment", "o/1", "o", state, settled_at, coins, (DecCoin("uact", Dec.of(5)),), ())


def payment(
    rate: str, *, balance: str = "0", state: EscrowState = EscrowState.OPEN, denom: str = "uact"
) -> EscrowPayment:
    zero = DecCoin(denom, Dec())
    return EscrowPayment(
        "deployment", "o/1", "1/1/p", "p", state, DecCoin(denom, Dec.of(rate)), DecCoin(denom, Dec.of(balance)),
        zero, Coin(denom, 0),
    )  # fmt: skip


# --- ledger ------------------------------------------------------------------------------------------------------


def test_transfers_that_touch_us_become_balanced_entries() -> None:
    book = Ledger()
    for entry in entries(("us", "escrow", "12uact,3uakt"), ("a", "b", "9uact"), ("escrow", "us", "2uact")):
        assert book.post(entry)
    assert len(book) == 2
    assert book.balances("us") == {"uact": -10, "uakt": -3}
    assert book.balances("escrow") == {"uact": 10, "uakt": 3}
    assert (book.total("uact"), book.total("uakt")) == (0, 0)


def test_a_block_read_twice_changes_nothing_and_a_changed_one_is_an_alarm() -> None:
    book = Ledger()
    (entry,) = entries(("us", "escrow", "12uact"))
    assert book.post(entry) is True
    assert book.post(entry) is False
    assert book.balances("us") == {"uact": -12}
    (changed,) = entries(("us", "escrow", "13uact"))
    with pytest.raises(InvariantBroken, match="other content"):
        book.post(changed)
    assert book.balances("us") == {"uact": -12}


def test_an_unbalanced_entry_is_refused() -> None:
    with pytest.raises(InvariantBroken, match="not balanced"):
        Ledger().post(LedgerEntry("x", 1, "m", (Posting("us", "uact", 1), Posting("them", "uakt", -1))))


def test_the_book_is_compared_with_the_chain() -> None:
    book = Ledger()
    book.post(opening("us", {"uact": 100, "uakt": 50}, height=1))
    assert book.has_book("us")
    assert not book.has_book("them")
    for entry in entries(("us", "escrow", "40uact")):
        book.post(entry)
    assert book.difference("us", {"uact": 60, "uakt": 50}) == {}
    assert book.difference("us", {"uact": 61, "other": 1}) == {"other": 1, "uact": 1, "uakt": -50}


def test_a_transfer_to_oneself_and_a_repeated_denomination_balance() -> None:
    book = Ledger()
    for entry in entries(("us", "us", "5uact"), ("them", "us", "1uact,2uact")):
        book.post(entry)
    assert book.balances("us") == {"uact": 3}


@pytest.mark.parametrize("text", ["uact", "-1uact", "1.5uact", "1 uact", "1"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        parse_coins(text)


def test_an_empty_amount_is_nothing() -> None:
    assert parse_coins("") == {}
    assert entries(("us", "them", "")) == []


# --- runway ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("funds", "rates", "run_out"),
    [
        ("1000", ["10"], 200),
        ("1009", ["10"], 200),
        ("1000", ["10", "10"], 150),
        ("1", ["0.9"], 102),  # a settlement after 2 blocks takes 1.8, truncated to 1
        ("0", ["0.4"], 102),
        ("10", ["0.5", "0.5"], 111),
        ("-5", ["10"], 100),
    ],
)
def test_run_out_is_the_last_block_paid_in_full(funds: str, rates: list[str], run_out: int) -> None:
    assert project(account(funds), [payment(r) for r in rates], height=100).run_out_height == run_out


@pytest.mark.parametrize(
    ("state", "rate", "denom"),
    [
        (EscrowState.CLOSED, "10", "uact"),
        (EscrowState.OVERDRAWN, "10", "uact"),
        (EscrowState.OPEN, "0", "uact"),
        (EscrowState.OPEN, "10", "uakt"),
    ],
)
def test_nothing_accrues(state: EscrowState, rate: str, denom: str) -> None:
    view = project(account("1000", state=state), [payment(rate, denom=denom)], height=150)
    assert (view.run_out_height, view.accrued_uact, view.funds_uact) == (None, 0, 1000)


def test_figures_between_settlements() -> None:
    view = project(account("1000"), [payment("1.5")], height=103)
    assert (view.accrued_uact, view.funds_uact, view.transferred_uact, view.deposited_uact) == (4, 996, 5, 1005)
    late = project(account("1000"), [payment("10")], height=500)
    assert (late.accrued_uact, late.funds_uact) == (1000, 0)


@pytest.mark.parametrize(
    ("funds", "rate", "balance", "height", "owed"),
    [
        ("1000", "10", "0", 110, 100),
        ("1000", "10", "7.6", 110, 107),
        ("1000", "1.5", "0.6", 101, 1),  # the accrued 1.5 is truncated before it is added
        ("50", "10", "0", 110, 50),
        ("1000", "10", "3", 100, 3),
        ("-5", "10", "3", 110, 0),  # in debt: the chain returns before it pays anything
    ],
)
def test_what_a_withdrawal_would_pay(funds: str, rate: str, balance: str, height: int, owed: int) -> None:
    assert owed_uact(payment(rate, balance=balance), account(funds), height=height) == owed


def test_a_closed_payment_owes_its_balance_only() -> None:
    closed = payment("10", balance="4", state=EscrowState.CLOSED)
    assert owed_uact(closed, account("1000"), height=500) == 4


# --- settlement --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "owed", "run_out", "threshold", "reason", "next_check"),
    [
        (100, 50, 1000, 0, None, 101),  # settled in this block: the chain panics
        (150, 50, 1000, 0, None, 200),
        (200, 50, 1000, 0, "the period is over", 201),
        (150, 50, 1000, 40, "the threshold is reached", 151),
        (150, 50, 153, 0, "the funds end soon", 151),
        (149, 50, 153, 0, None, 150),
        (154, 50, 153, 0, "the funds have ended", 155),
        (154, 0, 153, 0, "the funds have ended", 155),
        (200, 0, None, 0, None, 300),
        (200, 0, 1000, 0, None, 997),
        (103, 3, 103, 0, None, 104),  # settled a moment ago: leave the rest to the end
        (104, 3, 103, 0, "the funds have ended", 105),
    ],
)
def test_when_to_withdraw(
    height: int, owed: int, run_out: int | None, threshold: int, reason: str | None, next_check: int
) -> None:
    policy = SettlementPolicy(period_blocks=100, threshold_uact=threshold)
    decision = decide(policy, height=height, settled_at=100, owed_uact=owed, run_out_height=run_out)
    assert decision.withdraw is (reason is not None)
    assert decision.reason == reason or not decision.withdraw
    assert decision.next_check_height == next_check
