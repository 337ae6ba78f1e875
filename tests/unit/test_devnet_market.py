"""Bids and leases by the chain's rules, its known bugs among them (reference: akash 2.7, 2.8 and 2.10)."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from gpulease.devnet import deployment, errors, escrow, market, providers
from gpulease.pb.akash.audit.v1 import msg_pb2 as audit_msg
from gpulease.pb.akash.deployment.v1beta4 import deploymentmsg_pb2, groupmsg_pb2
from gpulease.pb.akash.market.v1beta5 import bidmsg_pb2, leasemsg_pb2
from gpulease.units import UACT, UAKT
from tests.fakes.ledger import (
    GPU_KEY,
    Ledger,
    Person,
    bid_id,
    create_bid,
    create_deployment,
    create_lease,
    create_provider,
    deposit,
    did,
    group,
    lease_id,
    withdraw,
)

pytestmark = pytest.mark.unit
DECOMMISSION, UNSTABLE = 10001, 10000
BID_DEPOSIT = 500_000


@pytest.fixture
def tenant() -> Person:
    return Person(1)


@pytest.fixture
def hosts() -> list[Person]:
    """Providers, in the order of their addresses: losers are visited so."""
    return sorted((Person(n) for n in range(2, 6)), key=lambda person: person.address)


@pytest.fixture
def ledger(tenant: Person, hosts: list[Person]) -> Ledger:
    ledger = Ledger([tenant, *hosts])
    for host in hosts:
        ledger.ok(host, create_provider(host))
    return ledger


def close_bid(owner: Person, host: Person, reason: int = UNSTABLE, **where: int) -> Message:
    return bidmsg_pb2.MsgCloseBid(id=bid_id(owner, host, **where), reason=reason)  # type: ignore[arg-type]


def close_lease(owner: Person, host: Person, **where: int) -> Message:
    return leasemsg_pb2.MsgCloseLease(id=lease_id(owner, host, **where))


def reclaim(owner: Person, host: Person) -> Message:
    return leasemsg_pb2.MsgLeaseStartReclaim(id=lease_id(owner, host), reason=DECOMMISSION)  # type: ignore[arg-type]


def bid_state(ledger: Ledger, owner: Person, host: Person) -> str:
    found = market.get_bid(ledger.chain.context(), bid_id(owner, host))
    assert found is not None
    return str(market.Bid.State.Name(found.state))


def orders(ledger: Ledger) -> list[tuple[int, str]]:
    return [(o.id.oseq, str(market.Order.State.Name(o.state))) for o in market.orders(ledger.chain.context())]


def group_state(ledger: Ledger, owner: Person) -> int:
    found = deployment.get_group(ledger.chain.context(), lease_id(owner, owner))
    assert found is not None
    return int(found.state)


def code(result: Any) -> tuple[str, int]:
    return result.codespace, result.code


class TestLosers:
    def test_known_bug_only_the_first_loser_is_refunded(
        self, ledger: Ledger, tenant: Person, hosts: list[Person]
    ) -> None:
        ledger.ok(tenant, create_deployment(tenant))
        for host in hosts:
            ledger.ok(host, create_bid(tenant, host))
        had = [ledger.balance(host) for host in hosts]
        ledger.ok(tenant, create_lease(tenant, hosts[-1]))
        assert [bid_state(ledger, tenant, host) for host in hosts] == ["lost", "open", "open", "active"]
        gained = [ledger.balance(host) - before for host, before in zip(hosts, had, strict=True)]
        assert gained == [BID_DEPOSIT, 0, 0, 0]

    def test_a_forgotten_loser_gets_its_deposit_back_by_closing(
        self, ledger: Ledger, tenant: Person, hosts: list[Person]
    ) -> None:
        ledger.ok(tenant, create_deployment(tenant))
        for host in hosts:
            ledger.ok(host, create_bid(tenant, host))
        ledger.ok(tenant, create_lease(tenant, hosts[-1]))
        before = ledger.balance(hosts[1])
        ledger.ok(hosts[1], close_bid(tenant, hosts[1]))
        assert ledger.balance(hosts[1]) == before + BID_DEPOSIT
        assert orders(ledger) == [(1, "active")]

    def test_a_lost_bid_cannot_be_closed(self, ledger: Ledger, tenant: Person, hosts: list[Person]) -> None:
        ledger.ok(tenant, create_deployment(tenant))
        for host in hosts[:2]:
            ledger.ok(host, create_bid(tenant, host))
        ledger.ok(tenant, create_lease(tenant, hosts[1]))
        assert code(ledger.run(hosts[0], close_bid(tenant, hosts[0]))) == ("market", 8)


class TestEnds:
    @pytest.fixture
    def leased(self, ledger: Ledger, tenant: Person, hosts: list[Person]) -> Ledger:
        ledger.ok(tenant, create_deployment(tenant))
        ledger.ok(hosts[0], create_bid(tenant, hosts[0]))
        ledger.ok(tenant, create_lease(tenant, hosts[0]))
        return ledger

    def test_a_provider_that_leaves_pauses_the_group(self, leased: Ledger, tenant: Person, hosts: list[Person]) -> None:
        leased.ok(hosts[0], close_bid(tenant, hosts[0]))
        assert group_state(leased, tenant) == deployment.G_PAUSED
        assert orders(leased) == [(1, "closed")]
        leased.ok(tenant, groupmsg_pb2.MsgStartGroup(id={"owner": tenant.address, "dseq": 1, "gseq": 1}))
        assert orders(leased) == [(1, "closed"), (2, "open")]

    def test_a_tenant_that_leaves_is_offered_a_new_order(
        self, leased: Ledger, tenant: Person, hosts: list[Person]
    ) -> None:
        leased.ok(tenant, close_lease(tenant, hosts[0]))
        assert orders(leased) == [(1, "closed"), (2, "open")]
        assert code(leased.run(tenant, close_lease(tenant, hosts[0]))) == ("market", 24)

    def test_known_bug_a_withdrawal_beside_another_settlement_panics(
        self, leased: Ledger, tenant: Person, hosts: list[Person]
    ) -> None:
        leased.chain.advance(3)
        one = leased.signed(hosts[0], withdraw(tenant, hosts[0]))
        two = leased.signed(hosts[0], withdraw(tenant, hosts[0]), sequences=[3])
        first, second = leased.block(one, two)
        assert first.code == 0
        assert (second.code, second.log[:32]) == (111222, "recovered: couldn't find payment")

    def test_withdrawals_pay_whole_units_and_keep_the_rest(
        self, ledger: Ledger, tenant: Person, hosts: list[Person]
    ) -> None:
        ledger.ok(tenant, create_deployment(tenant))
        ledger.ok(hosts[0], create_bid(tenant, hosts[0], price="0.4"))
        ledger.ok(tenant, create_lease(tenant, hosts[0]))
        before = ledger.balance(hosts[0])
        ledger.ok(hosts[0], withdraw(tenant, hosts[0]))  # 0.4 of one block: nothing, and it is gone
        assert ledger.balance(hosts[0]) == before
        ledger.chain.advance(4)
        ledger.ok(hosts[0], withdraw(tenant, hosts[0]))
        assert ledger.balance(hosts[0]) == before + 2


class TestReclamation:
    @pytest.fixture
    def leased(self, ledger: Ledger, tenant: Person, hosts: list[Person]) -> Ledger:
        ledger.ok(tenant, create_deployment(tenant, reclamation={"min_window": {"seconds": 10}}))
        ledger.ok(hosts[0], create_bid(tenant, hosts[0], reclamation_window={"seconds": 20}))
        ledger.ok(tenant, create_lease(tenant, hosts[0]))
        return ledger

    @pytest.mark.parametrize(("seconds", "wanted"), [(None, 40), (9, 41), (2_592_001, 39)])
    def test_a_bid_has_to_offer_what_the_order_asks(
        self, ledger: Ledger, tenant: Person, hosts: list[Person], seconds: int | None, wanted: int
    ) -> None:
        ledger.ok(tenant, create_deployment(tenant, reclamation={"min_window": {"seconds": 10}}))
        offer = {} if seconds is None else {"reclamation_window": {"seconds": seconds}}
        assert code(ledger.run(hosts[0], create_bid(tenant, hosts[0], **offer))) == ("market", wanted)

    def test_a_window_without_being_asked_is_bounded_too(
        self, ledger: Ledger, tenant: Person, hosts: list[Person]
    ) -> None:
        ledger.ok(tenant, create_deployment(tenant))
        offered = create_bid(tenant, hosts[0], reclamation_window={"seconds": 4})
        assert code(ledger.run(hosts[0], offered)) == ("market", 39)

    def test_the_provider_leaves_only_after_its_window(
        self, leased: Ledger, tenant: Person, hosts: list[Person]
    ) -> None:
        host = hosts[0]
        assert code(leased.run(host, close_bid(tenant, host))) == ("market", 37)
        began = leased.ok(host, reclaim(tenant, host))
        assert "akash.market.v1.EventLeaseReclaimStarted" in [e.type for e in began.events]
        assert code(leased.run(host, reclaim(tenant, host))) in (("market", 10), ("market", 36))
        assert code(leased.run(host, close_bid(tenant, host))) == ("market", 38)
        leased.ok(host, withdraw(tenant, host))  # it is paid until the end
        leased.chain.advance(20)
        leased.ok(host, close_bid(tenant, host, DECOMMISSION))
        lease = market.get_lease(leased.chain.context(), lease_id(tenant, host))
        assert lease is not None
        assert (lease.state, lease.reason) == (market.Lease.closed, DECOMMISSION)

    def test_the_tenant_may_leave_at_once_and_the_new_order_asks_again(
        self, leased: Ledger, tenant: Person, hosts: list[Person]
    ) -> None:
        leased.ok(hosts[0], reclaim(tenant, hosts[0]))
        leased.ok(tenant, close_lease(tenant, hosts[0]))
        last = market.orders(leased.chain.context())[-1]
        assert last.reclamation.min_window.seconds == 10

    def test_without_the_clause_there_is_nothing_to_start(
        self, ledger: Ledger, tenant: Person, hosts: list[Person]
    ) -> None:
        ledger.ok(tenant, create_deployment(tenant))
        ledger.ok(hosts[0], create_bid(tenant, hosts[0]))
        ledger.ok(tenant, create_lease(tenant, hosts[0]))
        assert code(ledger.run(hosts[0], reclaim(tenant, hosts[0]))) == ("market", 35)


class TestBids:
    @pytest.fixture
    def ordered(self, ledger: Ledger, tenant: Person) -> Ledger:
        ledger.ok(tenant, create_deployment(tenant))
        return ledger

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"price": "100.000000000000000001"}, "bid price is invalid"),
            ({"price": "0"}, "zero price"),
            ({"denom": UAKT, "price": "1"}, "recovered: invalid coin denominations; uact, uakt"),
            ({"deposit": deposit(499_999)}, "minimum:500000uact received:{499999uact [balance]}"),
            ({"oseq": 2}, "invalid order: order not found"),
        ],
    )
    def test_refused(
        self, ordered: Ledger, tenant: Person, hosts: list[Person], more: dict[str, Any], words: str
    ) -> None:
        result = ordered.run(hosts[0], create_bid(tenant, hosts[0], **more))
        assert result.code != 0
        assert words in result.log

    def test_at_the_orders_price_to_the_last_digit(self, ordered: Ledger, tenant: Person, hosts: list[Person]) -> None:
        ordered.ok(hosts[0], create_bid(tenant, hosts[0], price="100"))
        assert code(ordered.run(hosts[0], create_bid(tenant, hosts[0], price="99"))) == ("market", 21)

    def test_one_more_than_the_limit_fits(self, tenant: Person, hosts: list[Person]) -> None:
        ledger = Ledger([tenant, *hosts], order_max_bids=2)
        for host in hosts:
            ledger.ok(host, create_provider(host))
        ledger.ok(tenant, create_deployment(tenant))
        for host in hosts[:3]:
            ledger.ok(host, create_bid(tenant, host))
        assert ledger.run(hosts[3], create_bid(tenant, hosts[3])).log.endswith("too many existing bids (2)")
        ledger.ok(hosts[0], close_bid(tenant, hosts[0]))  # a closed one still counts
        assert ledger.run(hosts[3], create_bid(tenant, hosts[3])).code != 0

    def test_a_tenant_does_not_bid_on_its_own(self, ordered: Ledger, tenant: Person) -> None:
        ordered.ok(tenant, create_provider(tenant))
        assert code(ordered.run(tenant, create_bid(tenant, tenant))) == ("sdk", 36)

    def test_a_unit_offered_twice_panics(self, ordered: Ledger, tenant: Person, hosts: list[Person]) -> None:
        unit = {"resources": group().resources[0].resource, "count": 1}
        result = ordered.run(hosts[0], create_bid(tenant, hosts[0], resources_offer=[unit, unit]))
        assert (result.code, "nil pointer" in result.log) == (111222, True)
        wrong = {**unit, "count": 2}
        assert code(ordered.run(hosts[0], create_bid(tenant, hosts[0], resources_offer=[wrong]))) == ("market", 32)


class TestAudit:
    """An order that asks for an auditor's signature is bid on by providers whom that auditor has signed."""

    def asking(self, auditor: Person) -> Any:
        spec = group()
        spec.requirements.attributes.add(key="region", value="eu")
        spec.requirements.signed_by.all_of.append(auditor.address)
        return spec

    def test_signed_then_withdrawn(self, ledger: Ledger, tenant: Person, hosts: list[Person]) -> None:
        host, auditor = hosts[0], hosts[1]
        ledger.ok(tenant, create_deployment(tenant, groups=[self.asking(auditor)]))
        refused = ledger.run(host, create_bid(tenant, host))
        assert code(refused) == ("market", 5)
        ledger.ok(
            auditor,
            audit_msg.MsgSignProviderAttributes(
                owner=host.address, auditor=auditor.address, attributes=[{"key": "region", "value": "eu"}]
            ),
        )
        signed = providers.audited(ledger.chain.context(), host.address)
        assert {who: dict(what) for who, what in signed.items()} == {auditor.address: {"region": "eu"}}
        ledger.ok(host, create_bid(tenant, host))
        ledger.ok(host, close_bid(tenant, host))
        removal = audit_msg.MsgDeleteProviderAttributes(owner=host.address, auditor=auditor.address, keys=["region"])
        ledger.ok(auditor, removal)
        assert not providers.audited(ledger.chain.context(), host.address)
        assert ledger.run(auditor, removal).code != 0

    def test_a_gpu_that_the_provider_does_not_name(self, ledger: Ledger, tenant: Person, hosts: list[Person]) -> None:
        spec = group()
        del spec.resources[0].resource.gpu.attributes[:]
        spec.resources[0].resource.gpu.attributes.add(key=GPU_KEY.replace("a100", "h100"), value="true")
        ledger.ok(tenant, create_deployment(tenant, groups=[spec]))
        assert code(ledger.run(hosts[0], create_bid(tenant, hosts[0]))) == ("market", 32)


class TestAccounts:
    def test_known_bug_a_second_lease_drops_what_the_first_has_earned(
        self, ledger: Ledger, tenant: Person, hosts: list[Person]
    ) -> None:
        host = hosts[0]
        ledger.ok(tenant, create_deployment(tenant, groups=[group("a"), group("b")]))
        for gseq in (1, 2):
            ledger.ok(host, create_bid(tenant, host, gseq=gseq))
        ledger.ok(tenant, create_lease(tenant, host, gseq=1))
        ledger.chain.advance(9)
        ledger.ok(tenant, create_lease(tenant, host, gseq=2))  # settles: 10 blocks at 10 are taken, and lost
        before = ledger.balance(host)
        ledger.ok(host, withdraw(tenant, host, gseq=1))
        assert ledger.balance(host) == before + 10
        account = escrow.get_account(ledger.chain.context(), escrow.account_id(1, f"{tenant.address}/1"))
        assert account is not None
        assert sum(int(d.balance.amount) for d in account.state.deposits) == (500_000 - 120) * 10**18

    def test_known_bug_deployment_1_pays_for_deployment_10(
        self, ledger: Ledger, tenant: Person, hosts: list[Person]
    ) -> None:
        host = hosts[0]
        for dseq in (1, 10):
            ledger.ok(tenant, create_deployment(tenant, dseq))
            ledger.ok(host, create_bid(tenant, host, dseq))
            ledger.ok(tenant, create_lease(tenant, host, dseq))
        ledger.chain.advance(4)
        before = ledger.balance(host)
        ledger.ok(host, withdraw(tenant, host, 1))
        ledger.ok(host, withdraw(tenant, host, 10))
        left = {}
        for dseq in (1, 10):
            account = escrow.get_account(ledger.chain.context(), escrow.account_id(1, f"{tenant.address}/{dseq}"))
            assert account is not None
            left[dseq] = 500_000 - int(account.state.funds[0].amount) // 10**18
        # Leases began at heights b and b + 3. Withdrawing at b + 8, account 1 pays the 8 blocks of its own payment and
        # 8 for that of deployment 10 as well, which earns them once more from its own account.
        assert left == {1: 160, 10: 60}
        assert ledger.balance(host) - before == sum(left.values())

    def test_a_closed_deployment_closes_all_and_refunds(
        self, ledger: Ledger, tenant: Person, hosts: list[Person]
    ) -> None:
        had, earned = ledger.balance(tenant), ledger.balance(hosts[0])
        ledger.ok(tenant, create_deployment(tenant))
        ledger.ok(hosts[0], create_bid(tenant, hosts[0]))
        ledger.ok(tenant, create_lease(tenant, hosts[0]))
        ledger.chain.advance(4)
        ledger.ok(tenant, deploymentmsg_pb2.MsgCloseDeployment(id=did(tenant)))
        assert ledger.balance(tenant) == had - 50
        assert ledger.balance(hosts[0]) == earned + 50
        assert ledger.chain.module_balance("escrow") == []
        assert code(ledger.run(tenant, deploymentmsg_pb2.MsgCloseDeployment(id=did(tenant)))) == ("deployment", 5)


def test_a_panic_stays_within_its_transaction(ledger: Ledger, tenant: Person, hosts: list[Person]) -> None:
    """What the chain recovers from, and what we did not foresee, undoes one transaction and no more."""
    ledger.ok(tenant, create_deployment(tenant))

    def broken(*_: Any) -> None:
        raise KeyError("a mistake")

    original = market.get_order
    market.get_order = broken  # type: ignore[assignment]
    try:
        result = ledger.run(hosts[0], create_bid(tenant, hosts[0]))
    finally:
        market.get_order = original
    assert (result.code, result.log) == (111222, "recovered: 'a mistake'")
    ledger.ok(hosts[0], create_bid(tenant, hosts[0]))
    assert issubclass(errors.Panic, Exception)
    assert ledger.balance(hosts[0], UACT) < 10**12
