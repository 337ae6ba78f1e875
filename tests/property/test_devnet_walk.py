"""Random walks of a market on the embedded chain: what must hold after every block, whatever people do.

Coins are neither made nor lost, the escrow's account covers what it owes, a snapshot leads the same way again, and a
block that is checked first does what a block that is applied straight does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message

from gpulease.devnet import bank, escrow, market
from gpulease.pb.akash.deployment.v1beta4 import deploymentmsg_pb2
from gpulease.pb.akash.market.v1beta5 import bidmsg_pb2, leasemsg_pb2
from gpulease.units import UACT, UAKT, Dec
from tests.fakes.ledger import (
    Ledger,
    Person,
    bid_id,
    create_bid,
    create_deployment,
    create_provider,
    did,
    group,
    top_up,
)

pytestmark = pytest.mark.property
TENANTS, HOSTS = [Person(n) for n in (1, 2, 3)], [Person(n) for n in (4, 5, 6)]
SEEDS, STEPS = range(6), 250
Step = Callable[[Ledger, random.Random], tuple[Person, Message]]
PEOPLE = {person.address: person for person in [*TENANTS, *HOSTS]}
WILD = 0.15  # how often a step aims anywhere instead of at something that is there


def anywhere(rng: random.Random) -> Any:
    found = bid_id(rng.choice(TENANTS), rng.choice(HOSTS), rng.randint(1, 3))
    found.gseq, found.oseq = rng.randint(1, 2), rng.randint(1, 2)
    return found


def aim(rng: random.Random, known: list[Any]) -> Any:
    """The id of one of ``known``, or of anything."""
    return anywhere(rng) if not known or rng.random() < WILD else rng.choice(known).id


def fields(id_: Any, host: Person | None = None) -> dict[str, Any]:
    where = {"owner": id_.owner, "dseq": id_.dseq, "gseq": id_.gseq, "oseq": id_.oseq}
    return {**where, "provider": host.address if host is not None else id_.provider}


def live(ledger: Ledger, list_: Callable[[Any], list[Any]], *states: int) -> list[Any]:
    return [entry for entry in list_(ledger.chain.context()) if entry.state in states]


def deploy(ledger: Ledger, rng: random.Random) -> tuple[Person, Message]:
    tenant = rng.choice(TENANTS)
    groups = [group(f"g{n}", price="90000") for n in range(rng.randint(1, 2))]
    return tenant, create_deployment(tenant, rng.randint(1, 12), amount=rng.randint(500_000, 900_000), groups=groups)


def close_deployment(ledger: Ledger, rng: random.Random) -> tuple[Person, Message]:
    tenant = rng.choice(TENANTS)
    return tenant, deploymentmsg_pb2.MsgCloseDeployment(id=did(tenant, rng.randint(1, 12)))


def bid(ledger: Ledger, rng: random.Random) -> tuple[Person, Message]:
    host, order = rng.choice(HOSTS), aim(rng, live(ledger, market.orders, market.Order.open))
    message: Any = create_bid(TENANTS[0], host, price=f"{rng.randint(0, 90_000)}.{rng.randint(1, 999)}")
    message.id.CopyFrom(type(message.id)(**fields(order, host)))
    return host, message


def lease(ledger: Ledger, rng: random.Random) -> tuple[Person, Message]:
    found = aim(rng, live(ledger, market.bids, market.Bid.open))
    return PEOPLE[found.owner], leasemsg_pb2.MsgCreateLease(bid_id=fields(found))


def pay_out(ledger: Ledger, rng: random.Random) -> tuple[Person, Message]:
    found = aim(rng, live(ledger, market.leases, market.Lease.active))
    return PEOPLE[found.provider], leasemsg_pb2.MsgWithdrawLease(id=fields(found))


def leave(ledger: Ledger, rng: random.Random) -> tuple[Person, Message]:
    found = aim(rng, live(ledger, market.bids, market.Bid.open, market.Bid.active))
    return PEOPLE[found.provider], bidmsg_pb2.MsgCloseBid(id=fields(found), reason=10000)  # type: ignore[arg-type]


def end(ledger: Ledger, rng: random.Random) -> tuple[Person, Message]:
    found = aim(rng, live(ledger, market.leases, market.Lease.active))
    return PEOPLE[found.owner], leasemsg_pb2.MsgCloseLease(id=fields(found))


def add_funds(ledger: Ledger, rng: random.Random) -> tuple[Person, Message]:
    who, found = rng.choice([*TENANTS, *HOSTS]), aim(rng, market.orders(ledger.chain.context()))
    denom = rng.choice([UACT, UACT, UAKT])
    return who, top_up(who, PEOPLE[found.owner], found.dseq, amount=rng.randint(1, 300_000), denom=denom)


STEP_KINDS: list[Step] = [deploy] * 2 + [bid] * 4 + [lease] * 3 + [pay_out] * 3
STEP_KINDS += [leave, end, add_funds, close_deployment]


def begin() -> Ledger:
    ledger = Ledger([*TENANTS, *HOSTS])
    for host in HOSTS:
        ledger.ok(host, create_provider(host))
    return ledger


def money(ledger: Ledger) -> dict[str, int]:
    ctx = ledger.chain.context()
    held: dict[str, int] = {}
    for (_, denom), amount in ctx.state.table(bank._BALANCES).items():
        held[denom] = held.get(denom, 0) + amount
    return held


def check(ledger: Ledger) -> None:
    """The invariants of the reference, 3.5, as far as its known bugs let them hold."""
    ctx = ledger.chain.context()
    assert money(ledger) == {c.denom: c.amount for c in bank.supplies(ctx)}
    owed: dict[str, Dec] = {}
    for account in escrow.all_accounts(ctx):
        state = account.state
        for fund in state.funds:
            if state.state != escrow.OPEN or fund.denom == UAKT:
                continue
            deposits = [Dec(int(d.balance.amount)) for d in state.deposits if d.balance.denom == fund.denom]
            assert sum(deposits, Dec()) == max(Dec(int(fund.amount)), Dec())
        for deposit in state.deposits:
            owed[deposit.balance.denom] = owed.get(deposit.balance.denom, Dec()) + Dec(int(deposit.balance.amount))
    for payment in escrow.all_payments(ctx):
        balance = payment.state.balance
        owed[balance.denom] = owed.get(balance.denom, Dec()) + Dec(int(balance.amount or "0"))
    held = {c.denom: Dec.of(c.amount) for c in ledger.chain.module_balance("escrow")}
    for denom, amount in owed.items():
        assert amount <= held.get(denom, Dec())
    for found in market.leases(ctx):
        order = market.get_order(ctx, found.id)
        assert order is not None
        if found.state in (market.Lease.active, market.Lease.reclaiming):
            assert order.state == market.Order.active


@pytest.mark.parametrize("seed", SEEDS)
def test_what_holds_after_every_block(seed: int) -> None:
    rng = random.Random(seed)
    ledger = begin()
    done: dict[int, int] = {}
    for step in range(STEPS):
        signer, message = rng.choice(STEP_KINDS)(ledger, rng)
        result = ledger.run(signer, message)
        done[result.code] = done.get(result.code, 0) + 1
        check(ledger)
        if rng.random() < 0.2:
            ledger.chain.advance(rng.randint(1, 3))
        if step == STEPS // 2:
            _same_way_again(ledger, rng)
    print(f"\nseed {seed}: steps {STEPS}, outcomes {dict(sorted(done.items()))}")
    assert done.get(0, 0) >= STEPS // 3


def _same_way_again(ledger: Ledger, rng: random.Random) -> None:
    """From a snapshot, once applied straight and once through CheckTx and the mempool: the same results and state."""
    chain = ledger.chain
    saved = chain.snapshot()
    by_signer: dict[str, bytes] = {}
    for _ in range(6):
        signer, message = rng.choice(STEP_KINDS)(ledger, rng)
        by_signer.setdefault(signer.address, ledger.signed(signer, message))
    raws = list(by_signer.values())
    time_ns = chain.time_ns + 10**9
    straight = chain.apply_block(raws, time_ns=time_ns)
    after = chain.state.dump()
    chain.restore(saved)
    for raw in raws:
        assert chain.add_to_mempool(raw).code == 0
    waited = chain.apply_block(list(chain.mempool.values()), time_ns=time_ns)
    assert waited == straight
    assert _plain(chain.state.dump()) == _plain(after)
    assert not chain.mempool
    chain.restore(saved)


def _plain(dump: Any) -> Any:
    """Messages compare by content, tables by order as well."""
    return repr(dump)
