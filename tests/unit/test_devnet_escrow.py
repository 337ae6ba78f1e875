"""Escrow arithmetic: the real keeper's conformance vectors, several depositors, debt, top-ups and the uakt fallback."""

from __future__ import annotations

from typing import Any

import pytest

from gpulease.devnet import deployment, escrow, market
from gpulease.pb.akash.deployment.v1beta4 import deploymentmsg_pb2
from gpulease.pb.akash.escrow.types.v1 import account_pb2, payment_pb2
from gpulease.pb.akash.oracle.v2 import msgs_pb2 as oracle_msgs
from gpulease.pb.akash.oracle.v2 import prices_pb2
from gpulease.units import UACT, UAKT, Dec
from tests.fakes.ledger import (
    Ledger,
    Person,
    create_bid,
    create_deployment,
    create_lease,
    create_provider,
    did,
    group,
    lease_id,
    top_up,
    withdraw,
)

pytestmark = pytest.mark.unit
TENANT, HOST, FRIEND, FEED = (Person(n) for n in range(1, 5))
LEAST = BID_DEPOSIT = 500_000


def make(*rates: str, deposit: int = LEAST) -> Ledger:
    """A deployment with a lease per rate, all begun in one block as the conformance vectors have them."""
    ledger = Ledger([TENANT, HOST, FRIEND, FEED], price_sources=[FEED.address])
    ledger.ok(HOST, create_provider(HOST))
    groups = [group(f"g{n}", price="1000000") for n in range(len(rates))]
    ledger.ok(TENANT, create_deployment(TENANT, amount=deposit, groups=groups))
    for gseq, rate in enumerate(rates, 1):
        ledger.ok(HOST, create_bid(TENANT, HOST, price=rate, gseq=gseq))
    ledger.ok(TENANT, *(create_lease(TENANT, HOST, gseq=gseq) for gseq in range(1, len(rates) + 1)))
    return ledger


def account(ledger: Ledger) -> account_pb2.AccountState:
    found = escrow.get_account(ledger.chain.context(), escrow.account_id(1, f"{TENANT.address}/1"))
    assert found is not None
    return found.state


def payment(ledger: Ledger, gseq: int = 1) -> payment_pb2.PaymentState:
    found = escrow.get_payment(ledger.chain.context(), market.lease_payment(lease_id(TENANT, HOST, gseq=gseq)))
    assert found is not None
    return found.state


def units(text: str) -> Dec:
    return Dec(int(text or "0"))


def funds(ledger: Ledger, denom: str = UACT) -> Dec:
    return next(units(f.amount) for f in account(ledger).funds if f.denom == denom)


def earned(ledger: Ledger, gseq: int) -> Dec:
    state = payment(ledger, gseq)
    return units(state.balance.amount) + Dec.of(state.withdrawn.amount)


@pytest.mark.parametrize(
    ("deposit", "rates", "blocks", "balances", "left", "debts"),
    [
        (100, ("1", "2"), 5, ("5", "10"), "85", None),
        (100, ("10", "10"), 5, ("50", "50"), "0", None),
        (100, ("10", "10"), 6, ("60", "40"), "-20", ("0", "20")),
        (200, ("10", "10"), 11, ("110", "90"), "-20", ("0", "20")),
        (200, ("10", "10"), 6, ("60", "60"), "80", None),
        (100, ("0.9",), 1, ("0",), "100", None),
        (100, ("0.9",), 10, ("9",), "91", None),
        (100, ("33.5", "33.5", "33.5"), 1, ("33", "33", "33"), "1", None),
    ],
)
def test_conformance_vectors_of_the_keeper(
    deposit: int, rates: tuple[str, ...], blocks: int, balances: tuple[str, ...], left: str, debts: Any
) -> None:
    ledger = make(*rates)
    _reduce(ledger, deposit)
    ledger.chain.advance(blocks - 1)
    ledger.ok(HOST, withdraw(TENANT, HOST))
    assert [earned(ledger, n) for n in range(1, len(rates) + 1)] == [Dec.of(b) for b in balances]
    assert funds(ledger) == Dec.of(left)
    state = account(ledger).state
    assert state == (escrow.OPEN if debts is None else escrow.OVERDRAWN)
    if debts is not None:
        unsettled = [units(payment(ledger, n).unsettled.amount) for n in range(1, len(rates) + 1)]
        assert unsettled == [Dec.of(d) for d in debts]


def _reduce(ledger: Ledger, deposit: int) -> None:
    """The least deposit a deployment may have is more than the vectors': leave so much of it."""
    context = ledger.chain.context()
    found = escrow.get_account(context, escrow.account_id(1, f"{TENANT.address}/1"))
    assert found is not None
    found.state.funds[0].amount = found.state.deposits[0].balance.amount = str(Dec.of(deposit).raw)
    context.state.put(escrow._ACCOUNTS, escrow.account_key(found.id), found)


class TestDepositors:
    def test_first_in_first_out_and_each_is_refunded_its_own(self) -> None:
        ledger = make("1000")
        ledger.ok(FRIEND, top_up(FRIEND, TENANT, amount=2_000))
        ledger.ok(TENANT, top_up(TENANT, TENANT, amount=3_000))
        kept = [(d.owner, units(d.balance.amount)) for d in account(ledger).deposits]
        assert kept == [
            (TENANT.address, Dec.of(LEAST)),
            (FRIEND.address, Dec.of(2_000)),
            (TENANT.address, Dec.of(3_000)),
        ]
        _reduce(ledger, 1_500)
        had = ledger.balance(TENANT), ledger.balance(FRIEND)
        ledger.ok(TENANT, deploymentmsg_pb2.MsgCloseDeployment(id=did(TENANT)))  # three blocks are 3,000
        assert (ledger.balance(TENANT) - had[0], ledger.balance(FRIEND) - had[1]) == (3_000, 500)

    def test_another_denomination_is_kept_beside(self) -> None:
        ledger = make("10")
        ledger.ok(FRIEND, top_up(FRIEND, TENANT, amount=700, denom=UAKT))
        assert (funds(ledger, UACT), funds(ledger, UAKT)) == (Dec.of(LEAST), Dec.of(700))
        assert ledger.run(FRIEND, top_up(FRIEND, TENANT, amount=10**13)).log.endswith("insufficient balance")

    def test_a_closed_account_takes_nothing(self) -> None:
        ledger = make("10")
        ledger.ok(TENANT, deploymentmsg_pb2.MsgCloseDeployment(id=did(TENANT)))
        late = ledger.run(FRIEND, top_up(FRIEND, TENANT, amount=5))
        assert (late.codespace, late.code) == ("escrow", 2)
        unknown = ledger.run(FRIEND, top_up(FRIEND, TENANT, 9, amount=5))
        assert (unknown.codespace, unknown.code) == ("escrow", 3)


class TestOverdrawn:
    @pytest.fixture
    def ledger(self) -> Ledger:
        ledger = make("200000", "100000")
        ledger.chain.advance(1)
        result = ledger.ok(HOST, withdraw(TENANT, HOST))  # 2 blocks: 400,000 and 200,000 of 500,000
        assert "akash.market.v1.EventLeaseClosed" in [e.type for e in result.events]
        return ledger

    def test_a_settling_transaction_closes_the_leases(self, ledger: Ledger) -> None:
        context = ledger.chain.context()
        for gseq, debt in ((1, 0), (2, 100_000)):
            lease = market.get_lease(context, lease_id(TENANT, HOST, gseq=gseq))
            assert lease is not None
            assert (lease.state, lease.reason) == (market.Lease.insufficient_funds, 20000)
            assert units(payment(ledger, gseq).unsettled.amount) == Dec.of(debt)
        found = deployment.get(context, did(TENANT))
        assert found is not None
        assert found.state == 2
        late = ledger.run(HOST, withdraw(TENANT, HOST))
        assert (late.codespace, late.code) == ("escrow", 7)

    def test_without_a_settling_transaction_they_live_on(self) -> None:
        ledger = make("200000")
        ledger.chain.advance(50)
        lease = market.get_lease(ledger.chain.context(), lease_id(TENANT, HOST))
        assert lease is not None
        assert lease.state == market.Lease.active

    def test_a_top_up_pays_the_debt_and_refunds_the_rest(self, ledger: Ledger) -> None:
        before, had = ledger.balance(HOST), ledger.balance(FRIEND)
        ledger.ok(FRIEND, top_up(FRIEND, TENANT, amount=150_000))
        assert ledger.balance(HOST) == before + 100_000
        assert ledger.balance(FRIEND) == had - 100_000
        assert account(ledger).state == escrow.CLOSED

    def test_too_small_a_top_up_pays_a_part(self, ledger: Ledger) -> None:
        before = ledger.balance(HOST)
        ledger.ok(FRIEND, top_up(FRIEND, TENANT, amount=40_000))
        assert ledger.balance(HOST) == before + 40_000
        assert account(ledger).state == escrow.OVERDRAWN
        assert units(payment(ledger, 2).unsettled.amount) == Dec.of(60_000)


class TestFallback:
    """Debts are paid from uakt at the oracle's price while minting is halted."""

    def price(self, ledger: Ledger, text: str) -> None:
        message = oracle_msgs.MsgAddPriceEntry(
            signer=FEED.address, id=prices_pb2.DataID(denom="akt", base_denom="usd"), price=str(Dec.of(text).raw)
        )
        message.timestamp.FromNanoseconds(ledger.chain.time_ns)
        ledger.ok(FEED, message)
        ledger.chain.advance(1)

    def test_pays_the_provider_in_uakt_as_far_as_it_goes(self) -> None:
        ledger = make("300000")
        ledger.ok(FRIEND, top_up(FRIEND, TENANT, amount=1_000_000, denom=UAKT))
        self.price(ledger, "0.5")
        before = ledger.balance(HOST, UAKT), ledger.balance(HOST, UACT)
        ledger.ok(HOST, withdraw(TENANT, HOST))  # 1,200,000 of 500,000: 700,000 are 1,400,000 uakt
        paid = ledger.balance(HOST, UAKT) - before[0] + 12_500
        assert (paid, ledger.balance(HOST, UACT) - before[1]) == (1_000_000, 500_000 + BID_DEPOSIT)
        assert units(payment(ledger).unsettled.amount) == Dec.of(200_000)
        assert account(ledger).state == escrow.OVERDRAWN

    def test_in_full_keeps_the_lease_but_freezes_the_account(self) -> None:
        ledger = make("200000")
        ledger.ok(FRIEND, top_up(FRIEND, TENANT, amount=1_000_000, denom=UAKT))
        self.price(ledger, "0.5")
        before = ledger.balance(HOST, UAKT)
        ledger.ok(HOST, withdraw(TENANT, HOST))  # 800,000 of 500,000: 300,000 are 600,000 uakt
        assert ledger.balance(HOST, UAKT) - before + 12_500 == 600_000
        assert (account(ledger).state, funds(ledger)) == (escrow.OPEN, Dec.of(-300_000))
        had = ledger.balance(HOST), ledger.balance(HOST, UAKT)
        ledger.chain.advance(1)
        ledger.ok(HOST, withdraw(TENANT, HOST))  # frozen: succeeds, pays nothing
        assert (ledger.balance(HOST), ledger.balance(HOST, UAKT)) == (had[0], had[1] - 12_500)

    def test_not_without_a_price(self) -> None:
        ledger = make("300000")
        ledger.ok(FRIEND, top_up(FRIEND, TENANT, amount=1_000_000, denom=UAKT))
        before = ledger.balance(FRIEND, UAKT)
        ledger.chain.advance(1)
        ledger.ok(HOST, withdraw(TENANT, HOST))
        assert account(ledger).state == escrow.OVERDRAWN
        assert ledger.balance(FRIEND, UAKT) == before + 1_000_000  # the unused uakt go back
