"""Broadcaster on the devnet's state machine: batches, bisecting, priorities, fees and every way a node says no."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import Message

from gpulease.chain import codec
from gpulease.chain.broadcaster import Broadcaster
from gpulease.chain.events import Block
from gpulease.chain.fees import fee_for
from gpulease.chain.keys import Key
from gpulease.chain.outbox import MAX_ATTEMPTS, Entry, Intent, Priority, State
from gpulease.chain.reader import BlockReader
from gpulease.chain.rpc import Broadcast, Simulated
from gpulease.chain.tx import Fee, Ordering, build, pack
from gpulease.devnet import ante, auth
from gpulease.devnet.chain import TxResult
from gpulease.errors import ChainError, ChainUnreachable
from gpulease.ids import LeaseId
from gpulease.market import model as m
from gpulease.runtime.outbox import JournalOutbox
from gpulease.store.journal import Journal
from gpulease.units import NS_PER_S, UACT, UAKT, Coin, Dec, DecCoin
from tests.crash.workload import send
from tests.fakes.lease_chain import CHAIN_ID, DEPOSIT_UACT, PROVIDER, SINK, TENANT, LeaseChain
from tests.fakes.stepchain import StepChain, StepClock

from cosmos.feegrant.v1beta1 import feegrant_pb2
from cosmos.feegrant.v1beta1 import tx_pb2 as feegrant_tx

pytestmark = pytest.mark.contract
PRICE = Dec.of("0.025")
BUDGET = 10**9


class Desk:
    """A broadcaster with its reader, on a chain that moves when told to."""

    def __init__(
        self, world: LeaseChain, node: StepChain | None = None, *, journal: Journal | None = None, **named: Any
    ):
        self.world = world
        self.node = node or StepChain(world.chain)
        self.journal = journal or Journal(":memory:")
        self.start = world.chain.height
        self.signer: Key = named.pop("signer", PROVIDER)
        self.sender = Broadcaster(
            client=self.node,  # type: ignore[arg-type]
            outbox=JournalOutbox(self.journal),
            signer=self.signer,
            clock=StepClock(),
            chain_time_ns=lambda: self.reader.tip.time_ns,
            gas_price_uakt=PRICE,
            **{"fee_budget_uakt_per_day": BUDGET, "lifetime_s": 20.0, **named},
        )
        self.cursor: int | None = None
        self.reader = BlockReader(
            self.node,  # type: ignore[arg-type]
            clock=StepClock(),
            load_cursor=lambda: self.cursor,
            save_cursor=self.save,
            on_block=self.sender.on_block,
            on_resync=self.nothing,
        )

    def save(self, height: int) -> None:
        self.cursor = height

    async def nothing(self, _: int) -> None:
        return None

    def submit(self, key: str, *messages: Message, priority: Priority = Priority.LIFECYCLE) -> None:
        packed = tuple(pack(message) for message in messages)
        self.sender.submit(Intent(key, key.split("/")[0], packed, self.signer.address, priority))

    async def turn(self, *others: bytes, seconds: float = 1.0) -> list[tuple[bytes, TxResult]]:
        """The operator acts, a block is made (with other people's transactions first), the operator reads it."""
        await self.reader.step()
        await self.sender.step()
        chain = self.world.chain
        block = chain.apply_block([*others, *chain.mempool.values()], time_ns=chain.time_ns + int(seconds * NS_PER_S))
        await self.reader.step()
        return list(block.txs)

    async def finish(self, keys: Sequence[str], *, turns: int = 40) -> list[Entry]:
        for _ in range(turns):
            entries = [self.entry(key) for key in keys]
            if all(entry.state.final for entry in entries):
                return entries
            await self.turn()
        raise AssertionError(
            (self.sender.problem, [self.entry(key) for key in keys if not self.entry(key).state.final])
        )

    def entry(self, key: str) -> Entry:
        found = self.sender.outcome(key)
        assert found is not None
        return found

    def ours(self) -> list[tuple[int, int, int]]:
        """(height, code, messages) of each transaction of the signer since the beginning."""
        found = []
        for height in range(self.start + 1, self.world.chain.height + 1):
            block = self.world.chain.block(height)
            for raw, result in block.txs if block else ():
                tx = ante.decode(raw)
                if ante.signers(tx) == [self.signer.address]:
                    found.append((height, result.code, len(tx.messages)))
        return found


def withdrawals(world: LeaseChain, count: int, price: str = "3") -> list[LeaseId]:
    world.register()
    leases = [lease for number in range(count) for lease in world.lease(1000 + number, price)]
    world.block()
    return leases


# --- batches -------------------------------------------------------------------------------------------------------


async def test_fifty_withdrawals_are_one_transaction_and_a_bid_of_the_same_moment_is_not_behind_them() -> None:
    world = LeaseChain()
    leases = withdrawals(world, 50)
    order = LeaseId(*(world.order(5).owner, 5, 1, 1), PROVIDER.address)
    desk = Desk(world)
    for lease in leases:
        desk.submit(f"withdraw/{lease}", codec.withdraw_lease(lease), priority=Priority.MONEY)
    bid = codec.create_bid(order, price=DecCoin(UACT, Dec.of(1)), deposit=Coin(UACT, DEPOSIT_UACT))
    desk.submit("bid", bid, priority=Priority.MARKET)
    txs = await desk.turn()
    assert [len(ante.decode(raw).messages) for raw, _ in txs] == [1, 50], "the bid first, then one batch"
    assert {result.code for _, result in txs} == {0}
    entries = [desk.entry(f"withdraw/{lease}") for lease in leases] + [desk.entry("bid")]
    assert all(entry.succeeded for entry in entries)
    assert len({entry.hash for entry in entries}) == 2


@pytest.mark.parametrize("bad", [0, 1, 49, 50, 98, 99])
async def test_one_bad_message_in_a_hundred_costs_few_transactions(bad: int) -> None:
    world = LeaseChain()
    desk = Desk(world)
    keys = [f"send/{number:03}" for number in range(100)]
    for number, key in enumerate(keys):
        desk.submit(key, send(10**15 if number == bad else 100 + number))
    entries = await desk.finish(keys)
    assert [entry.succeeded for entry in entries] == [number != bad for number in range(100)]
    assert entries[bad].state is State.INCLUDED
    assert "insufficient funds" in (entries[bad].problem or "")
    extra = len(desk.ours()) - 1
    print(f"bisect: bad message {bad} of 100, {extra} extra transactions (bar 8), 99 landed")
    assert extra <= 8


async def test_many_bad_messages_are_found_together() -> None:
    desk = Desk(LeaseChain())
    keys = [f"send/{number:03}" for number in range(60)]
    for number, key in enumerate(keys):
        desk.submit(key, send(10**15 + number if number % 7 == 3 else 100 + number))
    entries = await desk.finish(keys)
    assert [entry.succeeded for entry in entries] == [number % 7 != 3 for number in range(60)]
    bad = sum(number % 7 == 3 for number in range(60))
    assert len(desk.ours()) == 1 + 1 + bad, "one that failed, one of all good ones, and each bad one alone"


class Panicking(StepChain):
    """Failures are panics, whose logs do not say which message it was."""

    async def block(self, height: int) -> Block:
        block = await super().block(height)
        txs = tuple(
            replace(t, code=111222, codespace="undefined", log="recovered: x") if t.code else t for t in block.txs
        )
        return replace(block, txs=txs)

    async def simulate(self, raw: bytes) -> Simulated:
        answer = await super().simulate(raw)
        return answer if answer.problem is None else Simulated("recovered: x")


class NoSimulation(Panicking):
    async def simulate(self, raw: bytes) -> Simulated:
        raise ChainError("this node does not simulate")


@pytest.mark.parametrize(("node", "bar"), [(Panicking, 8), (NoSimulation, 14)])
@pytest.mark.parametrize("bad", [0, 57, 99])
async def test_a_failure_without_an_index_is_found_by_halves(node: type[StepChain], bar: int, bad: int) -> None:
    """By simulation; where no node can simulate, by transactions, which costs up to two for each halving."""
    world = LeaseChain()
    desk = Desk(world, node(world.chain))
    keys = [f"send/{number:03}" for number in range(100)]
    for number, key in enumerate(keys):
        desk.submit(key, send(10**15 if number == bad else 100 + number))
    entries = await desk.finish(keys)
    landed = [number for number, entry in enumerate(entries) if entry.succeeded]
    assert landed == [number for number in range(100) if number != bad]
    assert len(desk.ours()) - 1 <= bar


async def test_an_account_is_settled_once_in_a_block_at_most() -> None:
    world = LeaseChain()
    world.register()
    first, second = world.lease(9, "3", groups=2)
    world.block()
    desk = Desk(world)
    for number, lease in enumerate([first, second, first, second]):
        desk.submit(f"withdraw/{number}", codec.withdraw_lease(lease), priority=Priority.MONEY)
    desk.submit("close", codec.close_bid(second, reason=10002), priority=Priority.MARKET)
    entries = await desk.finish(["close", *(f"withdraw/{number}" for number in range(4))])
    heights = [entry.height for entry in entries]
    assert len(set(heights)) == 5
    assert heights[0] == min(heights), "a close goes before withdrawals"
    assert [entry.succeeded for entry in entries] == [True, True, False, True, False], "nothing left on a closed lease"
    assert all(code != 111222 for _, code, _ in desk.ours())


async def test_a_withdrawal_that_met_another_settlement_is_tried_again() -> None:
    """The tenant's second lease settles the account in the block of our withdrawal, which then panics."""
    world = LeaseChain()
    world.register()
    did = world.order(9, groups=2)
    ids = [LeaseId(did.owner, did.dseq, gseq, 1, PROVIDER.address) for gseq in (1, 2)]
    price, deposit = DecCoin(UACT, Dec.of(3)), Coin(UACT, DEPOSIT_UACT)
    world.do(PROVIDER, *(codec.create_bid(i, price=price, deposit=deposit) for i in ids))
    world.do(TENANT, codec.create_lease(ids[0]))
    world.block()
    desk = Desk(world)
    desk.submit("withdraw", codec.withdraw_lease(ids[0]), priority=Priority.MONEY)
    await desk.turn(world.raw(TENANT, codec.create_lease(ids[1])))
    assert [code for _, code, _ in desk.ours()] == [111222]
    assert desk.entry("withdraw").state is State.PLANNED
    (entry,) = await desk.finish(["withdraw"])
    assert entry.succeeded
    assert [code for _, code, _ in desk.ours()] == [111222, 0]


async def test_a_message_that_no_transaction_may_hold_does_not_keep_the_others_back() -> None:
    """The refusal comes from CheckTx and names no message."""
    world = LeaseChain()
    leases = withdrawals(world, 4)
    desk = Desk(world)
    for lease in leases:
        desk.submit(f"close/{lease}", codec.close_bid(lease, reason=10001 if lease != leases[2] else 7))
    entries = await desk.finish([f"close/{lease}" for lease in leases])
    assert [entry.state for entry in entries].count(State.REFUSED) == 1
    assert [entry.succeeded for entry in entries] == [lease != leases[2] for lease in leases]


# --- priorities ----------------------------------------------------------------------------------------------------


async def test_a_bid_does_not_wait_for_a_withdrawal_that_hangs() -> None:
    world = LeaseChain()
    leases = withdrawals(world, 3)
    released = asyncio.Event()

    class Hanging(StepChain):
        async def broadcast(self, raw: bytes) -> Broadcast:
            if len(ante.decode(raw).messages) == 3:
                await released.wait()
            return await super().broadcast(raw)

    desk = Desk(world, Hanging(world.chain))
    await desk.reader.step()
    task = asyncio.create_task(desk.sender.run(idle_s=60))
    for lease in leases:
        desk.submit(f"withdraw/{lease}", codec.withdraw_lease(lease), priority=Priority.MONEY)
    for _ in range(50):
        await asyncio.sleep(0)
    assert desk.entry(f"withdraw/{leases[0]}").state is State.SIGNED
    desk.submit("send", send(5), priority=Priority.MARKET)
    for _ in range(50):
        await asyncio.sleep(0)
    assert desk.entry("send").state is State.SENT
    released.set()
    for _ in range(50):
        await asyncio.sleep(0)
    assert desk.entry(f"withdraw/{leases[0]}").state is State.SENT
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- ordered transactions ------------------------------------------------------------------------------------------


class OrderedOnly(StepChain):
    async def broadcast(self, raw: bytes) -> Broadcast:
        if ante.decode(raw).body.unordered:
            return Broadcast(37, "sdk", "unordered transactions are not enabled: not supported", "")
        return await super().broadcast(raw)


def foreign(world: LeaseChain, *, ahead: int = 0) -> bytes:
    """Another program's transaction with the same key."""
    account = auth.get(world.chain.context(), PROVIDER.address)
    assert account is not None
    return build(
        [pack(send(1))],
        signer=PROVIDER,
        chain_id=CHAIN_ID,
        account_number=account.number,
        fee=Fee((fee_for(200_000, PRICE),), 200_000),
        ordering=Ordering(sequence=account.sequence + ahead),
    )


async def test_a_chain_without_unordered_transactions_gets_ordered_ones() -> None:
    world = LeaseChain()
    desk = Desk(world, OrderedOnly(world.chain))
    for number in range(3):
        desk.submit(f"send/{number}", send(10 + number))
    desk.submit("record", codec.provider_record(m.ProviderRecord(PROVIDER.address, "https://p.test", ()), exists=False))
    entries = await desk.finish(["send/0", "send/1", "send/2", "record"])
    assert all(entry.succeeded for entry in entries)
    account = auth.get(world.chain.context(), PROVIDER.address)
    assert account is not None
    assert account.sequence == 2, "three payments in one, and the record"


async def test_a_sequence_taken_by_somebody_else_is_recovered_from() -> None:
    world = LeaseChain()
    desk = Desk(world, ordered=True)
    desk.submit("send/1", send(11))
    await desk.reader.step()
    await desk.sender.step()
    # A second program used the sequence; the node lost ours and took theirs.
    world.chain.mempool.clear()
    world.block(foreign(world))
    desk.submit("send/2", send(12))
    first, second = await desk.finish(["send/1", "send/2"])
    assert first.succeeded
    assert second.succeeded
    assert world.chain.balance(SINK, UAKT) == 1 + 1 + 11 + 12


async def test_a_refused_sequence_is_signed_anew_at_once() -> None:
    """Between asking for the sequence and sending, somebody else's transaction was included."""
    world = LeaseChain()

    class Late(StepChain):
        async def broadcast(self, raw: bytes) -> Broadcast:
            if self.calls.get("broadcast", 0) == 0:
                world.block(foreign(world))
            return await super().broadcast(raw)

    desk = Desk(world, Late(world.chain), ordered=True)
    desk.submit("send", send(11))
    await desk.turn()
    assert desk.entry("send").state is State.PLANNED
    await desk.turn()
    assert desk.entry("send").succeeded
    assert desk.entry("send").attempts == 2


# --- fees ----------------------------------------------------------------------------------------------------------


def grant_fees(world: LeaseChain, spend_limit: int) -> None:
    allowance = feegrant_pb2.BasicAllowance()
    allowance.spend_limit.add(denom=UAKT, amount=str(spend_limit))
    message = feegrant_tx.MsgGrantAllowance(granter=TENANT.address, grantee=PROVIDER.address)
    message.allowance.type_url, message.allowance.value = pack(allowance)
    world.do(TENANT, message)


async def test_the_granter_pays() -> None:
    world = LeaseChain()
    grant_fees(world, 10**9)
    before = world.chain.balance(PROVIDER.address, UAKT), world.chain.balance(TENANT.address, UAKT)
    desk = Desk(world, fee_granter=TENANT.address)
    desk.submit("send", send(7))
    (entry,) = await desk.finish(["send"])
    assert entry.succeeded
    assert world.chain.balance(PROVIDER.address, UAKT) == before[0] - 7
    assert world.chain.balance(TENANT.address, UAKT) == before[1] - desk.sender.fees_paid_uakt


async def test_a_grant_that_is_used_up_holds_transactions_back_until_it_is_renewed() -> None:
    world = LeaseChain()
    desk = Desk(world, fee_granter=TENANT.address)
    desk.submit("send", send(7))
    await desk.turn()
    assert desk.entry("send").state is State.SENT
    assert "fee grant does not exist" in (desk.sender.problem or "")
    grant_fees(world, 10**9)
    (entry,) = await desk.finish(["send"])
    assert entry.succeeded
    assert desk.sender.problem is None


async def test_an_account_without_coins_waits_for_them_and_gives_up_in_the_end() -> None:
    world = LeaseChain()
    poor = Key(b"\x77" * 32)
    desk = Desk(world, signer=poor)
    desk.submit("send", codec.provider_record(m.ProviderRecord(poor.address, "https://p.test", ()), exists=False))
    await desk.turn()
    assert "does not exist on chain" in (desk.sender.problem or "")
    world.chain.faucet(poor.address, [Coin(UAKT, 5)])
    await desk.turn()
    assert "too little uakt" in (desk.sender.problem or "")
    for _ in range(30 * MAX_ATTEMPTS):
        await desk.turn(seconds=5.0)
        if desk.entry("send").state.final:
            break
    assert desk.entry("send").state is State.EXPIRED
    assert desk.entry("send").attempts == MAX_ATTEMPTS
    assert desk.ours() == []
    assert desk.sender.fees_paid_uakt == 0


async def test_the_days_budget_stops_and_survives_a_restart() -> None:
    world = LeaseChain()
    one = fee_for(140_000, PRICE).amount
    journal = Journal(":memory:")
    desk = Desk(world, journal=journal, fee_budget_uakt_per_day=2 * one, limits={})
    for number in range(3):
        desk.submit(f"send/{number}", send(10 + number))
    await desk.turn()
    await desk.turn()
    assert [desk.entry(f"send/{number}").succeeded for number in range(3)] == [True, True, False]
    assert "fee budget" in (desk.sender.problem or "")
    assert desk.sender.fees_last_day_uakt == 2 * one == desk.sender.fee_budget_uakt
    again = Desk(world, journal=journal, fee_budget_uakt_per_day=2 * one, limits={})
    await again.turn()
    assert again.entry("send/2").state is State.PLANNED
    assert again.sender.fees_paid_uakt == 2 * one
    # A day of chain time later there is room again.
    world.chain.advance(1, block_time_ns=25 * 3600 * NS_PER_S)
    (entry,) = await again.finish(["send/2"])
    assert entry.succeeded
    assert again.sender.fees_paid_uakt == 3 * one


async def test_gas_of_an_unknown_kind_is_asked_for_once() -> None:
    world = LeaseChain()
    world.register()
    desk = Desk(world)
    for number in range(3):
        message = feegrant_tx.MsgRevokeAllowance(granter=PROVIDER.address, grantee=SINK)
        desk.submit(f"revoke/{number}", message)
        desk.submit(f"send/{number}", send(10 + number))
    grant = feegrant_tx.MsgGrantAllowance(granter=PROVIDER.address, grantee=SINK)
    grant.allowance.type_url, grant.allowance.value = pack(feegrant_pb2.BasicAllowance())
    desk.submit("grant", grant, priority=Priority.MARKET)
    await desk.finish(["grant", *(f"send/{number}" for number in range(3))])
    assert desk.node.calls["simulate"] == 2, "one for each kind that no table knows"


async def test_too_little_gas_is_learned_from() -> None:
    world = LeaseChain()

    class Thirsty(StepChain):
        async def block(self, height: int) -> Block:
            block = await super().block(height)
            if height != spoiled:
                return block
            out = {"code": 11, "codespace": "sdk", "log": "out of gas in location: x", "gas_used": 150_000}
            return replace(block, txs=tuple(replace(tx, **out) for tx in block.txs))

    desk = Desk(world, Thirsty(world.chain))
    spoiled = world.chain.height + 1
    desk.submit("send", send(9))
    await desk.turn()
    entry = desk.entry("send")
    assert (entry.state, entry.failures) == (State.PLANNED, 1)
    await desk.reader.step()
    await desk.sender.step()
    (raw,) = world.chain.mempool.values()
    assert ante.decode(raw).gas_wanted == 2 * (150_000 * 3 // 2)


# --- what nodes say ------------------------------------------------------------------------------------------------


async def test_bytes_that_a_node_has_already_are_on_their_way() -> None:
    world = LeaseChain()
    lost: list[int] = []

    def lose_the_first_answer(name: str) -> None:
        if name == "broadcast" and not lost:
            lost.append(1)
            raise ChainUnreachable("the answer was lost")

    desk = Desk(world, StepChain(world.chain, after=lose_the_first_answer))
    desk.submit("send", send(3))
    await desk.reader.step()
    await desk.sender.step()
    assert desk.entry("send").state is State.SIGNED
    await desk.sender.step()
    assert desk.entry("send").state is State.SENT
    await desk.turn()
    assert desk.entry("send").succeeded
    assert len(desk.ours()) == 1


SAYING: list[tuple[Broadcast, State]] = [
    (Broadcast(20, "sdk", "mempool is full", ""), State.SENT),
    (Broadcast(42, "sdk", "tx timeout", ""), State.SENT),
    (Broadcast(18, "sdk", "already used timeout", ""), State.SENT),
    (Broadcast(5, "sdk", "insufficient funds", ""), State.SENT),
    (Broadcast(2, "feegrant", "fee limit exceeded", ""), State.SENT),
    (Broadcast(32, "sdk", "account sequence mismatch, expected 3, got 7", ""), State.SENT),
    (Broadcast(32, "sdk", "account sequence mismatch, expected 7, got 3", ""), State.PLANNED),
    (Broadcast(4, "sdk", "signature verification failed", ""), State.PLANNED),
    (Broadcast(12, "sdk", "memo too large", ""), State.REFUSED),
    (Broadcast(19, "market", "invalid bid: zero price", ""), State.REFUSED),
    (Broadcast(19, "market", "invalid bid: zero price", "", sole=False), State.SENT),
]


@pytest.mark.parametrize(("answer", "state"), SAYING, ids=[f"{a.codespace}-{a.code}-{s.value}" for a, s in SAYING])
async def test_a_first_refusal(answer: Broadcast, state: State) -> None:
    world = LeaseChain()

    class Refusing(StepChain):
        async def broadcast(self, raw: bytes) -> Broadcast:
            return answer

    desk = Desk(world, Refusing(world.chain))
    desk.submit("send", send(3))
    await desk.reader.step()
    await desk.sender.step()
    assert desk.entry("send").state is state


@pytest.mark.parametrize("after_restart", [False, True])
async def test_a_refusal_of_bytes_that_may_have_been_seen_decides_nothing(after_restart: bool) -> None:
    """The worst case: the bytes are in a block, the process died before it knew, and a node refuses them for money."""
    world = LeaseChain()
    journal = Journal(":memory:")

    def dies(name: str) -> None:
        if name == "broadcast":
            raise ChainUnreachable("the answer was lost")

    desk = Desk(world, StepChain(world.chain, after=dies), journal=journal)
    desk.submit("send", send(3))
    await desk.reader.step()
    await desk.sender.step()
    assert desk.entry("send").state is State.SIGNED

    class Refusing(StepChain):
        async def broadcast(self, raw: bytes) -> Broadcast:
            return Broadcast(12, "sdk", "memo too large", "")

    other = Refusing(world.chain)
    later = Desk(world, other, journal=journal) if after_restart else desk
    if not after_restart:
        desk.sender._client = other  # type: ignore[assignment]
    later.cursor = desk.cursor
    await later.reader.step()
    await later.sender.step()
    assert later.entry("send").state is State.SENT
    await later.turn()
    assert later.entry("send").succeeded


async def test_bytes_that_no_block_took_are_signed_anew_after_their_deadline() -> None:
    world = LeaseChain()
    desk = Desk(world, lifetime_s=5.0)
    desk.submit("send", send(3))
    await desk.reader.step()
    await desk.sender.step()
    first = desk.entry("send").hash
    world.chain.mempool.clear()

    def deaf(name: str) -> None:
        if name == "broadcast":
            raise ChainUnreachable("the node is silent")

    desk.node.hook = deaf
    for _ in range(8):
        await desk.turn()
    desk.node.hook = lambda _: None
    (entry,) = await desk.finish(["send"])
    assert entry.succeeded
    assert entry.hash != first
    assert len(desk.ours()) == 1
    assert desk.sender.fees_paid_uakt == fee_for(140_000, PRICE).amount, "bytes that died were not paid for"


async def test_what_nobody_can_know_any_more_is_not_done_again() -> None:
    """Included just before an outage that outlasts what the nodes keep."""
    world = LeaseChain(keep_blocks=50)
    desk = Desk(world)
    desk.submit("send", send(3))
    await desk.reader.step()
    await desk.sender.step()
    for _ in range(80):
        world.block()
    (entry,) = await desk.finish(["send"])
    assert entry.state is State.EXPIRED
    assert "cannot be known" in (entry.problem or "")
    assert world.chain.balance(SINK, UAKT) == 1 + 3, "it had been included, and is not sent a second time"


async def test_an_intent_without_messages_or_of_another_signer_is_a_mistake() -> None:
    desk = Desk(LeaseChain())
    with pytest.raises(ChainError, match="no message"):
        desk.sender.submit(Intent("x", "x", (), PROVIDER.address))
    with pytest.raises(ChainError, match="signs for"):
        desk.sender.submit(Intent("x", "x", (pack(send(1)),), TENANT.address))
