"""After hours without a node: every order still open is found at once, none that closed, and the books agree."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gpulease.chain import codec, reader
from gpulease.chain.client import ChainClient, Endpoint
from gpulease.chain.events import Block, OrderCreated
from gpulease.chain.reader import BlockReader
from gpulease.devnet import market as markets
from gpulease.devnet.serve import DevnetServer
from gpulease.ids import OrderId
from gpulease.market.model import OrderState
from gpulease.runtime.books import Books
from gpulease.store.journal import Journal
from gpulease.units import NS_PER_S, UAKT, Coin
from tests.fakes.lease_chain import CHAIN_ID, PROVIDER, TENANT, LeaseChain
from tests.fakes.proxy import ChainProxy, Fault
from tests.fakes.stepchain import StepChain, StepClock

pytestmark = pytest.mark.contract
OUTAGE_S, BLOCK_S = 7 * 3600, 6
KEPT_BLOCKS = 300


class Bidder:
    """As the operator does it: an event or a resync names an order, the chain says whether it is open, then it bids."""

    def __init__(self, client: ChainClient, clock: StepClock) -> None:
        self.client, self.journal = client, Journal(":memory:")
        self.books = Books(self.journal, CHAIN_ID, height=0)
        self.bids: list[OrderId] = []
        self.looked_after: list[int] = []
        self.read: list[int] = []
        self.reader = BlockReader(
            client,
            clock=clock,
            load_cursor=self.load,
            save_cursor=self.save,
            on_block=self.on_block,
            on_resync=self.on_resync,
        )

    def load(self) -> int | None:
        body = self.journal.get("cursor", CHAIN_ID)
        return None if body is None else int(body["height"])

    def save(self, height: int) -> None:
        self.journal.put("cursor", CHAIN_ID, {"height": height}, is_open=False)

    async def on_block(self, block: Block) -> None:
        self.read.append(block.height)
        self.books.read_block(block)
        for event in block.events:
            if isinstance(event, OrderCreated):
                await self.consider(event.id)

    async def on_resync(self, height: int) -> None:
        if not self.books.height:
            self.books.skip_to(height)
        self.looked_after.append(len(self.read))
        for order in await self.client.orders(state="open"):
            await self.consider(order.id)

    async def consider(self, id_: OrderId) -> None:
        order = await self.client.order(id_)
        if order is not None and order.state is OrderState.OPEN and id_ not in self.bids:
            self.bids.append(id_)


def outage(world: LeaseChain, draw: random.Random) -> tuple[set[OrderId], set[OrderId]]:
    """Seven hours of blocks in which orders come, and some of them go; what is open at the end, and what was closed."""
    came: list[OrderId] = []
    gone: set[OrderId] = set()
    end_ns = world.chain.time_ns + OUTAGE_S * NS_PER_S
    dseq = 1000
    while world.chain.time_ns < end_ns:
        world.chain.advance(draw.randint(20, 80), block_time_ns=BLOCK_S * NS_PER_S)
        if draw.random() < 0.6:
            dseq += 1
            did = world.order(dseq)
            came.append(OrderId(did.owner, did.dseq, 1, 1))
        elif draw.random() < 0.8 and (left := [o for o in came if o not in gone]):
            order = draw.choice(left)
            world.do(TENANT, codec.close_deployment(order.deployment))
            gone.add(order)
    return set(came) - gone, gone


def open_on_chain(world: LeaseChain) -> set[OrderId]:
    orders = markets.orders(world.chain.context())
    return {codec.order(o).id for o in orders if o.state == markets.Order.open}


@asynccontextmanager
async def served(keep_blocks: int) -> AsyncIterator[tuple[LeaseChain, Bidder, ChainProxy]]:
    world = LeaseChain(keep_blocks=keep_blocks)
    world.register()
    world.chain.advance(60, block_time_ns=BLOCK_S * NS_PER_S)
    async with (
        DevnetServer(world.chain, block_time_ms=0) as server,
        ChainProxy(server.endpoints.rpc, http=True) as proxy,
        ChainClient([Endpoint(proxy.address, server.endpoints.grpc)], CHAIN_ID, timeout_s=2.0) as client,
    ):
        yield world, Bidder(client, StepClock(world.chain.time_ns)), proxy


async def test_seven_hours_out_on_a_node_that_prunes() -> None:
    draw = random.Random(7)
    async with served(KEPT_BLOCKS) as (world, bidder, proxy):
        await bidder.reader.step()
        assert await bidder.books.open_account(bidder.client, PROVIDER.address)
        before = open_on_chain(world)
        proxy.fault = Fault.HALF_OPEN
        await bidder.reader.step()
        assert bidder.reader.tip.problem is not None
        start = world.chain.height
        still, gone = outage(world, draw)
        made = world.chain.height - start
        # Coins that moved while nobody could read the blocks: the books learn of them as one sum.
        world.chain.faucet(PROVIDER.address, [Coin(UAKT, 12345)])
        world.chain.advance(1, block_time_ns=BLOCK_S * NS_PER_S)
        assert made > OUTAGE_S // BLOCK_S
        assert len(still) > 10
        assert len(gone) > 10
        proxy.fault = Fault.NONE
        bidder.looked_after.clear()
        await bidder.reader.step()
        assert bidder.reader.tip.problem is None
        assert set(bidder.bids) == before | still == open_on_chain(world)
        assert bidder.looked_after[0] == 0, "what is open now was looked at after blocks of the past"
        assert bidder.read == list(range(bidder.read[0], world.chain.height + 1))
        assert KEPT_BLOCKS - 5 <= len(bidder.read) <= KEPT_BLOCKS
        print(f"outage: 7 h = {made} blocks, {len(still)} orders open and bid, {len(gone)} closed and not bid")
        assert PROVIDER.address not in bidder.books.accounts
        assert await bidder.books.open_account(bidder.client, PROVIDER.address)
        assert await bidder.books.difference(bidder.client) == {PROVIDER.address: {}}
        (late,) = (r for r in bidder.journal.read_all(f"ledger:{CHAIN_ID}") if r.body["memo"].startswith("moved in"))
        assert late.body["postings"] == [["opening", UAKT, -12345], [PROVIDER.address, UAKT, 12345]]


class Counting(StepChain):
    """How many blocks are held at the same time."""

    held = 0
    most = 0

    async def block(self, height: int) -> Block:
        self.held += 1
        self.most = max(self.most, self.held)
        try:
            await asyncio.sleep(0)
            return await super().block(height)
        finally:
            self.held -= 1


async def test_seven_hours_of_blocks_are_read_in_order_with_few_in_hand() -> None:
    world = LeaseChain()
    world.register()
    node = Counting(world.chain)
    read: list[int] = []
    cursor = [world.chain.height]
    resyncs: list[tuple[int, int]] = []

    async def on_block(block: Block) -> None:
        read.append(block.height)

    async def on_resync(height: int) -> None:
        resyncs.append((height, len(read)))

    follower = BlockReader(
        node,  # type: ignore[arg-type]
        clock=StepClock(),
        load_cursor=lambda: cursor[0],
        save_cursor=lambda height: cursor.__setitem__(0, height),
        on_block=on_block,
        on_resync=on_resync,
    )
    outage(world, random.Random(8))
    await follower.step()
    assert read == list(range(read[0], world.chain.height + 1))
    assert len(read) > OUTAGE_S // BLOCK_S
    assert resyncs[0] == (world.chain.height, 0)
    assert 1 < node.most <= reader.READ_AHEAD_BLOCKS
    assert follower.tip.problem is None


# --- silence, on a clock of our own --------------------------------------------------------------------------------


async def steady() -> tuple[LeaseChain, BlockReader, StepClock]:
    world, clock, cursor = LeaseChain(), StepClock(), [0]
    world.chain.advance(60, block_time_ns=BLOCK_S * NS_PER_S)
    cursor[0] = world.chain.height - 10

    async def nothing(_: object) -> None:
        return None

    follower = BlockReader(
        StepChain(world.chain),  # type: ignore[arg-type]
        clock=clock,
        load_cursor=lambda: cursor[0],
        save_cursor=lambda height: cursor.__setitem__(0, height),
        on_block=nothing,
        on_resync=nothing,
    )
    await follower.step()
    assert follower.tip.block_time_ns == BLOCK_S * NS_PER_S
    return world, follower, clock


@pytest.mark.parametrize(
    ("quiet_s", "silent", "reason"),
    [(6.0, False, None), (11.9, False, None), (12.1, True, None), (30.1, True, "ChainSilent")],
)
async def test_a_node_that_answers_but_stands_still(quiet_s: float, silent: bool, reason: str | None) -> None:
    world, follower, clock = await steady()
    clock.ns += int(quiet_s * NS_PER_S)
    await follower.step()
    assert follower.tip.silent is silent
    assert (follower.tip.problem[0] if follower.tip.problem else None) == reason
    world.chain.advance(1, block_time_ns=BLOCK_S * NS_PER_S)
    await follower.step()
    assert (follower.tip.silent, follower.tip.problem) == (False, None)


async def test_a_clock_that_was_set_back_does_not_hide_silence() -> None:
    _, follower, clock = await steady()
    clock.ns -= 3600 * NS_PER_S
    await follower.step()
    assert follower.tip.silent is False
    clock.ns += 13 * NS_PER_S
    await follower.step()
    assert follower.tip.silent is True


@pytest.mark.parametrize("behind", [1, 3])
async def test_a_height_that_wavers_is_no_problem(behind: int) -> None:
    world, follower, _ = await steady()
    world.chain.height -= behind
    await follower.step()
    assert follower.tip.problem is None
    world.chain.height += behind


async def test_a_chain_that_really_went_back_is_waited_for() -> None:
    world, follower, _ = await steady()
    world.chain.height -= 10
    await follower.step()
    assert follower.tip.problem is not None
    assert follower.tip.problem[0] == "ChainWentBack"
