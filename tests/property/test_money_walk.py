"""Money against the devnet's state machine: random walks of chain operations, compared after each block to the unit.

What the chain would do is asked by doing it: a withdrawal at a height, on a state that is then rolled back.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from gpulease.chain import codec
from gpulease.chain.keys import Key
from gpulease.devnet import addresses, bank, errors, escrow, router
from gpulease.devnet import deployment as deployments
from gpulease.devnet import market as markets
from gpulease.devnet.chain import BlockResult
from gpulease.ids import DeploymentId, LeaseId
from gpulease.market import model as m
from gpulease.money.ledger import Ledger, Transfer, entries_of, opening
from gpulease.money.runway import owed_uact, payments_of, project
from gpulease.pb.akash.deployment.v1 import group_pb2 as group_id_pb2
from gpulease.pb.akash.deployment.v1beta4 import groupmsg_pb2
from gpulease.pb.akash.market.v1 import lease_pb2
from gpulease.pb.akash.market.v1beta5 import bid_pb2
from gpulease.units import UACT, UAKT, Coin, Dec, DecCoin
from tests.fakes.lease_chain import DEPOSIT_UACT, PROVIDER, TENANT, LeaseChain, group

pytestmark = pytest.mark.property
SEEDS = (11, 12)
LEAST_OPERATIONS = 5_000
MOST_DEPLOYMENTS = 6
RIVAL, FRIEND = Key(b"\x44" * 32), Key(b"\x55" * 32)
PRICES = ("0.3", "0.9", "1.5", "7.25", "1234.567891", "9999.999999999999999999", "20000", "133333.333333333333333333")


class Walk:
    """Operations of two providers, a tenant and somebody who adds money, a few in each block."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.world = LeaseChain(extra=(RIVAL.address, FRIEND.address))
        self.world.register()
        self.counted: Counter[str] = Counter()
        ctx = self.world.chain.context()
        self.names = (PROVIDER.address, RIVAL.address, TENANT.address, FRIEND.address, addresses.module("escrow"))
        self.ledger = Ledger()
        for name in self.names:
            balances = {c.denom: c.amount for c in bank.balances(ctx, name)}
            self.ledger.post(opening(name, balances, height=self.world.chain.height))
        record = m.ProviderRecord(RIVAL.address, "https://r.example.test:8443", ())
        self.read(self.world.do(RIVAL, codec.provider_record(record, exists=False)))

    # --- doing -------------------------------------------------------------------------------------------------

    def live(self) -> list[DeploymentId]:
        found = deployments.all_deployments(self.world.chain.context())
        return [DeploymentId(d.id.owner, d.id.dseq) for d in found if d.state == deployments.ACTIVE]

    def leases(self) -> list[LeaseId]:
        found = markets.leases(self.world.chain.context())
        return [codec.lease_id(entry.id) for entry in found if entry.state == lease_pb2.Lease.active]

    def create(self) -> bytes | None:
        # Small numbers, so that one owner/dseq is often the beginning of another.
        dseq = self.draw.randint(1, 1300)
        if len(self.live()) >= MOST_DEPLOYMENTS:
            return None
        specs = tuple(group(f"g{i}") for i in range(self.draw.randint(1, 3)))
        deposit = Coin(UACT, DEPOSIT_UACT + self.draw.randint(0, 1000))
        did = DeploymentId(TENANT.address, dseq)
        return self.world.raw(TENANT, codec.create_deployment(did, specs, hash_=bytes(32), deposit=deposit))

    def bid(self) -> bytes | None:
        orders = [o for o in markets.orders(self.world.chain.context()) if o.state == markets.Order.open]
        if not orders:
            return None
        order, key = codec.order(self.draw.choice(orders)), self.draw.choice([PROVIDER, RIVAL])
        price = DecCoin(UACT, Dec.of(self.draw.choice(PRICES)))
        return self.world.raw(
            key, codec.create_bid(order.id.bid(key.address), price=price, deposit=Coin(UACT, DEPOSIT_UACT))
        )

    def accept(self) -> bytes | None:
        bids = [b for b in markets.bids(self.world.chain.context()) if b.state == bid_pb2.Bid.open]
        if not bids:
            return None
        return self.world.raw(TENANT, codec.create_lease(codec.lease_id(self.draw.choice(bids).id)))

    def on_lease(self, make: Callable[[LeaseId], bytes]) -> bytes | None:
        leases = self.leases()
        return make(self.draw.choice(leases)) if leases else None

    def withdraw(self) -> bytes | None:
        return self.on_lease(lambda i: self.world.raw(self.seller(i), codec.withdraw_lease(i)))

    def close_lease(self) -> bytes | None:
        return self.on_lease(lambda i: self.world.raw(TENANT, codec.close_lease(i)))

    def close_bid(self) -> bytes | None:
        return self.on_lease(lambda i: self.world.raw(self.seller(i), codec.close_bid(i, reason=10001)))

    @staticmethod
    def seller(lease: LeaseId) -> Key:
        return PROVIDER if lease.provider == PROVIDER.address else RIVAL

    def top_up(self) -> bytes | None:
        ended = self.draw.random() < 0.2
        accounts = [
            a
            for a in escrow.all_accounts(self.world.chain.context())
            if a.id.scope == 1 and (a.state.state != escrow.OPEN) is ended
        ]
        if not accounts:
            return None
        account, key = self.draw.choice(accounts), self.draw.choice([TENANT, FRIEND])
        amount = Coin(self.draw.choice([UACT, UACT, UACT, UAKT]), self.draw.randint(1, 400_000))
        owner, dseq = account.id.xid.split("/")
        did = DeploymentId(owner, int(dseq))
        return self.world.raw(key, codec.deposit_deployment(key.address, did, amount=amount))

    def close(self) -> bytes | None:
        live = self.live()
        return self.world.raw(TENANT, codec.close_deployment(self.draw.choice(live))) if live else None

    def restart_group(self) -> bytes | None:
        live = self.live()
        if not live:
            return None
        did = self.draw.choice(live)
        gid = group_id_pb2.GroupID(owner=did.owner, dseq=did.dseq, gseq=1)
        kind = self.draw.choice([groupmsg_pb2.MsgPauseGroup, groupmsg_pb2.MsgStartGroup])
        return self.world.raw(TENANT, kind(id=gid))

    def step(self) -> None:
        """A block of one to four operations, sometimes with a quiet time before it."""
        if self.draw.random() < 0.2:
            for _ in range(self.draw.randint(1, 6)):
                self.read(self.world.block())
        weights = {self.create: 6, self.bid: 6, self.accept: 6, self.withdraw: 9, self.top_up: 4, self.restart_group: 2}
        weights |= {self.close_lease: 1, self.close_bid: 1, self.close: 1}
        raws: list[bytes] = []
        for make in self.draw.choices(list(weights), list(weights.values()), k=self.draw.randint(1, 4)):
            raw = make()
            if raw is not None:
                raws.append(raw)
                self.counted[make.__name__] += 1
        block = self.world.block(*raws)
        self.counted["failed"] += sum(1 for _, result in block.txs if result.code != 0)
        self.read(block)
        self.compare()

    # --- comparing ---------------------------------------------------------------------------------------------

    def read(self, block: BlockResult) -> None:
        for index, (_, result) in enumerate(block.txs):
            moved = [
                Transfer(*(dict(e.attributes).get(k, "") for k in ("sender", "recipient", "amount")))
                for e in result.events
                if e.type == "transfer"
            ]
            source = f"{block.height}/{index}"
            for entry in entries_of(moved, source=source, height=block.height, memo="", accounts=frozenset(self.names)):
                self.ledger.post(entry)

    def would_pay(self, lease: LeaseId, height: int) -> tuple[int, bool]:
        """(uact paid, whether the account is out of money) if a withdrawal were in the block at ``height``."""
        chain = self.world.chain
        pid = markets.lease_payment(codec.pb_lease_id(lease))
        before = escrow.get_payment(chain.context(), pid)
        chain.state.begin()
        try:
            ctx = chain.context(height=height)
            router.run(ctx, codec.withdraw_lease(lease))
            after = escrow.get_payment(ctx, pid)
            assert before is not None
            assert after is not None
            paid = int(after.state.withdrawn.amount) - int(before.state.withdrawn.amount)
            account = escrow.get_account(ctx, escrow.account_id(1, str(lease.deployment)))
            assert account is not None
            ended = account.state.state == escrow.OVERDRAWN or escrow.dec(account.state.funds[0].amount) < Dec()
            return paid, ended
        except (errors.ModuleError, errors.Panic):
            return 0, False
        finally:
            chain.state.rollback()
            chain.state.end()

    def compare(self) -> None:
        chain = self.world.chain
        ctx = chain.context()
        for name in self.names:
            on_chain = {coin.denom: coin.amount for coin in bank.balances(ctx, name)}
            assert self.ledger.difference(name, on_chain) == {}, name
        everything = [codec.escrow_payment(p) for p in escrow.all_payments(ctx) if p.state.state != escrow.CLOSED]
        checked: set[str] = set()
        for lease in self.leases():
            raw = escrow.get_account(ctx, escrow.account_id(1, str(lease.deployment)))
            own = escrow.get_payment(ctx, markets.lease_payment(codec.pb_lease_id(lease)))
            assert raw is not None
            assert own is not None
            account, payment = codec.escrow_account(raw), codec.escrow_payment(own)
            together = payments_of(account, everything)
            following = chain.height + 1
            owed = owed_uact(payment, account, height=following, payments=together)
            paid, _ = self.would_pay(lease, following)
            assert owed == paid, (lease, account, together)
            self.counted["owed compared"] += 1
            if str(lease.deployment) in checked or payment.state is not m.EscrowState.OPEN:
                continue
            checked.add(str(lease.deployment))
            run_out = project(account, together, height=following).run_out_height
            if run_out is None:
                continue
            self.counted["run-out compared"] += 1
            self.counted["several payments"] += len(together) > 1
            self.counted["several depositors"] += len({d.owner for d in account.deposits}) > 1
            if run_out > account.settled_at:
                assert self.would_pay(lease, run_out)[1] is False, (run_out, account, together)
            assert self.would_pay(lease, run_out + 1)[1] is True, (run_out, account, together)
        for raw in escrow.all_accounts(ctx):
            self.counted["overdrawn accounts seen"] += raw.state.state == escrow.OVERDRAWN


@pytest.mark.parametrize("seed", SEEDS)
def test_owed_run_out_and_ledger_are_the_chains(seed: int) -> None:
    walk = Walk(seed)
    operations = 0
    while operations < LEAST_OPERATIONS // len(SEEDS):
        walk.step()
        operations = sum(n for name, n in walk.counted.items() if " " not in name and name != "failed")
    print(f"money walk: seed {seed}, operations {operations}, {dict(sorted(walk.counted.items()))}")
    for name in ("several payments", "several depositors", "overdrawn accounts seen", "top_up", "withdraw"):
        assert walk.counted[name] > 50, name
