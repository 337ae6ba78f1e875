"""Authorizations and fee allowances: what they allow, what is left of them, and how they end."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from gpulease.devnet import addresses, authz, feegrant, gotext, registry
from gpulease.pb.akash.deployment.v1beta4 import deploymentmsg_pb2
from gpulease.pb.akash.escrow.v1 import authz_pb2 as escrow_authz
from gpulease.units import NS_PER_S, UACT, UAKT, Coin
from tests.fakes.ledger import (
    BALANCE,
    GRANT,
    Ledger,
    Person,
    coin,
    create_bid,
    create_deployment,
    create_provider,
    deposit,
    did,
    top_up,
)

from cosmos.authz.v1beta1 import authz_pb2
from cosmos.authz.v1beta1 import tx_pb2 as authz_tx
from cosmos.bank.v1beta1 import authz_pb2 as bank_authz
from cosmos.bank.v1beta1 import tx_pb2 as bank_tx
from cosmos.feegrant.v1beta1 import feegrant_pb2
from cosmos.feegrant.v1beta1 import tx_pb2 as feegrant_tx

pytestmark = pytest.mark.unit
DEPLOYMENTS, BIDS = escrow_authz.DepositAuthorization.deployment, escrow_authz.DepositAuthorization.bid
SEND_URL = "/cosmos.bank.v1beta1.MsgSend"


@pytest.fixture
def granter() -> Person:
    return Person(1)


@pytest.fixture
def grantee() -> Person:
    return Person(2)


@pytest.fixture
def other() -> Person:
    return Person(3)


@pytest.fixture
def ledger(granter: Person, grantee: Person, other: Person) -> Ledger:
    return Ledger([granter, grantee, other])


def pay(sender: Person, to: Person, amount: int = 5) -> Message:
    return bank_tx.MsgSend(from_address=sender.address, to_address=to.address, amount=[coin(UAKT, amount)])


def grant(granter: Person, grantee: Person, authorization: Message, until_ns: int = 0) -> Message:
    message = authz_tx.MsgGrant(granter=granter.address, grantee=grantee.address)
    message.grant.authorization.CopyFrom(registry.pack(authorization))
    if until_ns:
        message.grant.expiration.FromNanoseconds(until_ns)
    return message


def exec_(grantee: Person, *messages: Message) -> Message:
    return authz_tx.MsgExec(grantee=grantee.address, msgs=[registry.pack(m) for m in messages])


def revoke(granter: Person, grantee: Person, url: str) -> Message:
    return authz_tx.MsgRevoke(granter=granter.address, grantee=grantee.address, msg_type_url=url)


def deposits(amount: int, *scopes: Any) -> Message:
    return escrow_authz.DepositAuthorization(
        spend_limits=[coin(UACT, amount)],
        spend_limit=coin(UAKT, 0),
        scopes=scopes or [DEPLOYMENTS],
    )


def kinds(result: Any) -> list[str]:
    return [event.type for event in result.events]


class TestGeneric:
    def test_speaks_for_one_kind_of_message_until_it_is_revoked(
        self, ledger: Ledger, granter: Person, grantee: Person, other: Person
    ) -> None:
        ledger.ok(granter, grant(granter, grantee, authz_pb2.GenericAuthorization(msg=SEND_URL)))
        before = ledger.balance(other, UAKT)
        result = ledger.ok(grantee, exec_(grantee, pay(granter, other), pay(granter, other, 7)))
        assert ledger.balance(other, UAKT) == before + 12
        marks = [dict(e.attributes).get("authz_msg_index") for e in result.events if e.type == "transfer"]
        assert marks[-2:] == ["0", "1"]
        refused = ledger.run(grantee, exec_(grantee, create_deployment(granter)))
        assert (refused.codespace, refused.code) == ("authz", 2)
        ledger.ok(granter, revoke(granter, grantee, SEND_URL))
        gone = ledger.run(grantee, exec_(grantee, pay(granter, other)))
        words = f"failed to get grant with given granter: {granter.address}, grantee: {grantee.address}"
        assert words in gone.log
        again = ledger.run(granter, revoke(granter, grantee, SEND_URL))
        assert (again.codespace, again.code) == ("authz", 2)
        assert "failed to delete grant with key " in again.log

    def test_ends_with_its_time(self, ledger: Ledger, granter: Person, grantee: Person, other: Person) -> None:
        until = ledger.chain.time_ns + 5 * NS_PER_S
        ledger.ok(granter, grant(granter, grantee, authz_pb2.GenericAuthorization(msg=SEND_URL), until))
        ledger.ok(grantee, exec_(grantee, pay(granter, other)))
        ledger.chain.advance(5)
        late = ledger.run(grantee, exec_(grantee, pay(granter, other)))
        assert (late.codespace, late.code) == ("authz", 2)

    def test_who_signs_for_himself_needs_none(self, ledger: Ledger, grantee: Person, other: Person) -> None:
        ledger.ok(grantee, exec_(grantee, pay(grantee, other)))

    def test_a_failing_inner_message_undoes_the_ones_before(
        self, ledger: Ledger, granter: Person, grantee: Person, other: Person
    ) -> None:
        ledger.ok(granter, grant(granter, grantee, authz_pb2.GenericAuthorization(msg=SEND_URL)))
        before = ledger.balance(other, UAKT)
        result = ledger.run(grantee, exec_(grantee, pay(granter, other), pay(granter, other, 10**13)))
        assert result.code == 5
        assert "failed to execute message; message " in result.log
        assert ledger.balance(other, UAKT) == before

    @pytest.mark.parametrize(
        ("message", "codespace", "code"),
        [
            (lambda a, b, now: grant(a, a, authz_pb2.GenericAuthorization(msg=SEND_URL)), "authz", 7),
            (lambda a, b, now: grant(a, b, authz_pb2.GenericAuthorization(msg="/no.Such")), "sdk", 29),
            (lambda a, b, now: grant(a, b, authz_pb2.GenericAuthorization(msg=SEND_URL), now), "authz", 3),
            (lambda a, b, now: grant(a, b, deposits(5, DEPLOYMENTS, DEPLOYMENTS)), "escrow", 17),
            (lambda a, b, now: grant(a, b, escrow_authz.DepositAuthorization()), "escrow", 17),
            (lambda a, b, now: grant(a, b, bank_authz.SendAuthorization()), "sdk", 10),
        ],
    )
    def test_a_grant_is_refused(
        self, ledger: Ledger, granter: Person, grantee: Person, message: Any, codespace: str, code: int
    ) -> None:
        result = ledger.run(granter, message(granter, grantee, ledger.chain.time_ns))
        assert (result.codespace, result.code) == (codespace, code), result.log

    def test_makes_the_grantee_an_account(self, ledger: Ledger, granter: Person) -> None:
        stranger = Person(9)
        ledger.ok(granter, grant(granter, stranger, authz_pb2.GenericAuthorization(msg=SEND_URL)))
        assert ledger.run(stranger, pay(stranger, granter), fee=[]).code == 5  # known, but without coins


def test_a_send_grant_has_a_limit_and_goes_with_it(
    ledger: Ledger, granter: Person, grantee: Person, other: Person
) -> None:
    limited = bank_authz.SendAuthorization(spend_limit=[coin(UAKT, 10)], allow_list=[other.address])
    ledger.ok(granter, grant(granter, grantee, limited))
    assert ledger.run(grantee, exec_(grantee, pay(granter, other, 11))).log.endswith(
        "requested amount is more than spend limit: insufficient funds"
    )
    assert ledger.run(grantee, exec_(grantee, pay(granter, grantee, 1))).code == 4
    ledger.ok(grantee, exec_(grantee, pay(granter, other, 4)))
    spent = ledger.ok(grantee, exec_(grantee, pay(granter, other, 6)))
    assert "cosmos.authz.v1beta1.EventRevoke" in kinds(spent)
    assert ledger.run(grantee, exec_(grantee, pay(granter, other, 1))).code == 2


class TestDeposits:
    """A deposit grant pays in part where its grantee deposits, and all or nothing through MsgExec."""

    def limit(self, ledger: Ledger, granter: Person, grantee: Person) -> int | None:
        found = authz.get(ledger.chain.context(), granter.address, grantee.address, authz.DEPOSIT_URL)
        if found is None:
            return None
        packed: Any = registry.unpack(found.authorization)
        return sum(int(c.amount) for c in packed.spend_limits)

    def test_pays_what_the_balance_lacks_and_is_refilled_by_the_refund(
        self, ledger: Ledger, granter: Person, grantee: Person
    ) -> None:
        ledger.ok(granter, grant(granter, grantee, deposits(700_000)))
        had, gave = ledger.balance(grantee), ledger.balance(granter)
        paid = create_deployment(grantee, deposit=deposit(600_000, sources=[GRANT, BALANCE]))
        ledger.ok(grantee, paid)
        assert self.limit(ledger, granter, grantee) == 100_000
        assert ledger.balance(granter) == gave - 600_000
        ledger.ok(grantee, top_up(grantee, grantee, amount=250_000, sources=[GRANT, BALANCE]))
        assert self.limit(ledger, granter, grantee) == 0  # spent, and still there
        assert ledger.balance(grantee) == had - 150_000

        ledger.ok(grantee, deploymentmsg_pb2.MsgCloseDeployment(id=did(grantee)))
        assert self.limit(ledger, granter, grantee) == 700_000
        assert (ledger.balance(grantee), ledger.balance(granter)) == (had, gave)

    def test_alone_it_has_to_suffice(self, ledger: Ledger, granter: Person, grantee: Person) -> None:
        ledger.ok(granter, grant(granter, grantee, deposits(499_999)))
        result = ledger.run(grantee, create_deployment(grantee, deposit=deposit(500_000, sources=[GRANT])))
        assert result.log.endswith("deposit invalid: insufficient balance")

    def test_several_granters_pay_in_the_order_of_their_addresses(
        self, ledger: Ledger, granter: Person, grantee: Person, other: Person
    ) -> None:

        first, second = sorted((granter, other), key=lambda p: addresses.decode(p.address) or b"")
        for person in (granter, other):
            ledger.ok(person, grant(person, grantee, deposits(300_000)))
        ledger.ok(grantee, create_deployment(grantee, deposit=deposit(500_000, sources=[GRANT])))
        assert self.limit(ledger, first, grantee) == 0
        assert self.limit(ledger, second, grantee) == 100_000

    def test_its_scope_counts(self, ledger: Ledger, granter: Person, grantee: Person, other: Person) -> None:
        ledger.ok(other, create_deployment(other))
        ledger.ok(grantee, create_provider(grantee))
        ledger.ok(granter, grant(granter, grantee, deposits(500_000)))
        bid = create_bid(other, grantee, deposit=deposit(500_000, sources=[GRANT]))
        assert ledger.run(grantee, bid).code != 0
        ledger.ok(granter, grant(granter, grantee, deposits(500_000, DEPLOYMENTS, BIDS)))
        ledger.ok(grantee, bid)

    def test_through_exec_all_or_nothing(self, ledger: Ledger, granter: Person, grantee: Person) -> None:
        ledger.ok(granter, create_deployment(granter))
        ledger.ok(granter, grant(granter, grantee, deposits(100)))
        over = ledger.run(grantee, exec_(grantee, top_up(granter, granter, amount=101)))
        assert (over.codespace, over.code) == ("sdk", 5)
        assert ledger.run(grantee, exec_(grantee, top_up(granter, granter, amount=1, denom=UAKT))).code == 4
        ledger.ok(grantee, exec_(grantee, top_up(granter, granter, amount=40)))
        assert self.limit(ledger, granter, grantee) == 60
        spent = ledger.ok(grantee, exec_(grantee, top_up(granter, granter, amount=60)))
        assert self.limit(ledger, granter, grantee) is None
        assert "cosmos.authz.v1beta1.EventRevoke" in kinds(spent)


# --- fee allowances ------------------------------------------------------------------------------------------------


def allow(granter: Person, grantee: Person, allowance: Message) -> Message:
    message = feegrant_tx.MsgGrantAllowance(granter=granter.address, grantee=grantee.address)
    message.allowance.CopyFrom(registry.pack(allowance))
    return message


def disallow(granter: Person, grantee: Person) -> Message:
    return feegrant_tx.MsgRevokeAllowance(granter=granter.address, grantee=grantee.address)


def basic(limit: int | None = None, until_ns: int = 0) -> Any:
    found = feegrant_pb2.BasicAllowance(spend_limit=[coin(UAKT, limit)] if limit is not None else [])
    if until_ns:
        found.expiration.FromNanoseconds(until_ns)
    return found


def periodic(period_s: int, per_period: int, total: int | None = None) -> Any:
    found = feegrant_pb2.PeriodicAllowance(
        basic=basic(total), period_spend_limit=[coin(UAKT, per_period)], period_can_spend=[coin(UAKT, per_period)]
    )
    found.period.seconds = period_s
    return found


FEE = Coin(UAKT, 12_500)


class TestAllowance:
    def charged(self, ledger: Ledger, granter: Person, grantee: Person, other: Person) -> Any:
        return ledger.run(grantee, pay(grantee, other, 1), fee=[FEE], granter=granter.address)

    def has(self, ledger: Ledger, granter: Person, grantee: Person) -> bool:
        return feegrant.get(ledger.chain.context(), granter.address, grantee.address) is not None

    def test_pays_until_its_limit_and_goes_when_it_is_used_up(
        self, ledger: Ledger, granter: Person, grantee: Person, other: Person
    ) -> None:
        ledger.ok(granter, allow(granter, grantee, basic(25_000)))
        before = ledger.balance(granter, UAKT)
        first = self.charged(ledger, granter, grantee, other)
        assert first.code == 0
        assert [k for k in kinds(first) if "feegrant" in k] == ["use_feegrant", "update_feegrant"]
        last = self.charged(ledger, granter, grantee, other)
        assert [k for k in kinds(last) if "feegrant" in k] == ["revoke_feegrant", "use_feegrant"]
        assert ledger.balance(granter, UAKT) == before - 25_000
        none = self.charged(ledger, granter, grantee, other)
        shown = [gotext.raw_bytes(raw(p)) for p in (granter, grantee)]
        assert none.log == f"{shown[0]} does not allow to pay fees for {shown[1]}: fee-grant not found: not found"

    def test_more_than_its_limit(self, ledger: Ledger, granter: Person, grantee: Person, other: Person) -> None:
        ledger.ok(granter, allow(granter, grantee, basic(12_499)))
        result = self.charged(ledger, granter, grantee, other)
        assert (result.codespace, result.code) == ("feegrant", 2)
        assert result.log.endswith("basic allowance: fee limit exceeded")

    def test_without_a_limit_until_its_time_is_over(
        self, ledger: Ledger, granter: Person, grantee: Person, other: Person
    ) -> None:
        until = ledger.chain.time_ns + 4 * NS_PER_S
        ledger.ok(granter, allow(granter, grantee, basic(until_ns=until)))
        assert self.charged(ledger, granter, grantee, other).code == 0
        ledger.chain.advance(2)
        assert not self.has(ledger, granter, grantee)  # taken away at the end of the block at its time

    def test_some_messages_only(self, ledger: Ledger, granter: Person, grantee: Person, other: Person) -> None:
        limited = feegrant_pb2.AllowedMsgAllowance(allowed_messages=["/akash.market.v1beta5.MsgCreateBid"])
        limited.allowance.CopyFrom(registry.pack(basic()))
        ledger.ok(granter, allow(granter, grantee, limited))
        result = self.charged(ledger, granter, grantee, other)
        assert (result.codespace, result.code) == ("feegrant", 7)

    def test_so_much_per_period(self, ledger: Ledger, granter: Person, grantee: Person, other: Person) -> None:
        ledger.ok(granter, allow(granter, grantee, periodic(10, 15_000, 40_000)))
        assert self.charged(ledger, granter, grantee, other).code == 0
        over = self.charged(ledger, granter, grantee, other)
        assert over.log.endswith("period limit: fee limit exceeded")
        ledger.chain.advance(10)
        assert self.charged(ledger, granter, grantee, other).code == 0
        ledger.chain.advance(10)
        assert self.charged(ledger, granter, grantee, other).code == 0
        ledger.chain.advance(10)  # 2,500 are left in total, which is then the period's limit
        assert self.charged(ledger, granter, grantee, other).log.endswith("period limit: fee limit exceeded")

    @pytest.mark.parametrize(
        ("make", "code"),
        [
            (lambda a, b: allow(a, a, basic()), 7),
            (lambda a, b: allow(a, b, basic(0)), 10),
            (lambda a, b: disallow(a, b), 38),
        ],
    )
    def test_refused(self, ledger: Ledger, granter: Person, grantee: Person, make: Any, code: int) -> None:
        result = ledger.run(granter, make(granter, grantee))
        assert (result.codespace, result.code) == ("sdk", code), result.log

    def test_a_second_one_is_refused_until_the_first_is_revoked(
        self, ledger: Ledger, granter: Person, grantee: Person
    ) -> None:
        ledger.ok(granter, allow(granter, grantee, basic()))
        assert ledger.run(granter, allow(granter, grantee, basic())).code == 18
        ledger.ok(granter, disallow(granter, grantee))
        ledger.ok(granter, allow(granter, grantee, basic()))

    def test_known_bug_an_old_expiry_takes_the_new_allowance(
        self, ledger: Ledger, granter: Person, grantee: Person
    ) -> None:
        until = ledger.chain.time_ns + 5 * NS_PER_S
        ledger.ok(granter, allow(granter, grantee, basic(until_ns=until)))
        ledger.ok(granter, disallow(granter, grantee))
        ledger.ok(granter, allow(granter, grantee, basic()))
        assert self.has(ledger, granter, grantee)
        ledger.chain.advance(3)
        assert not self.has(ledger, granter, grantee)


def raw(person: Person) -> bytes:

    return addresses.decode(person.address) or b""
