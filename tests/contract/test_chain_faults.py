"""The reader behind a proxy that does what networks and bad nodes do: no block lost, none twice, silence known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gpulease.chain import rpc
from gpulease.chain.client import ChainClient, Endpoint
from gpulease.chain.events import Block
from gpulease.chain.reader import BlockReader
from gpulease.chain.tx import tx_hash
from gpulease.devnet.chain import Devnet
from gpulease.devnet.serve import DevnetServer
from gpulease.errors import ChainMismatch, ChainUnreachable
from gpulease.runtime.clock import SystemClock
from tests.crash.workload import send
from tests.fakes.lease_chain import CHAIN_ID, PROVIDER, LeaseChain
from tests.fakes.proxy import (
    ChainProxy,
    Fault,
    another_chain,
    catching_up,
    higher,
    pruned_below,
    stuck_at,
)

pytestmark = pytest.mark.contract
BLOCK_S = 0.06
PATIENCE_S = 0.1

Break = Callable[["Rig"], None]


@dataclass(slots=True)
class Rig:
    """A devnet node behind a proxy, the same node plainly, and a reader."""

    server: DevnetServer
    proxy: ChainProxy
    client: ChainClient
    reader: BlockReader
    heights: list[int] = field(default_factory=list)
    cursor: int | None = None

    def save(self, height: int) -> None:
        self.cursor = height

    async def on_block(self, block: Block) -> None:
        self.heights.append(block.height)

    async def on_resync(self, _: int) -> None:
        return None

    async def until(self, condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
        give_up_s = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < give_up_s, (self.reader.tip, self.heights[-5:], self.server.chain.height)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def rig(*, spare: bool, block_s: float = BLOCK_S) -> AsyncIterator[Rig]:
    chain = LeaseChain().chain
    async with DevnetServer(chain, block_time_ms=int(block_s * 1000)) as server:
        ends = server.endpoints
        async with ChainProxy(ends.rpc, http=True) as proxy:
            endpoints = [Endpoint(proxy.address, ends.grpc)] + ([Endpoint(ends.rpc, ends.grpc)] if spare else [])
            async with ChainClient(endpoints, CHAIN_ID, timeout_s=1.0, patience_s=PATIENCE_S) as client:
                made = Rig(server, proxy, client, None)  # type: ignore[arg-type]
                made.reader = BlockReader(
                    client,
                    clock=SystemClock(),
                    load_cursor=lambda: made.cursor,
                    save_cursor=made.save,
                    on_block=made.on_block,
                    on_resync=made.on_resync,
                    poll_s=block_s / 5,
                )
                task = asyncio.create_task(made.reader.run())
                try:
                    await made.until(lambda: made.reader.tip.measured and len(made.heights) >= 6)
                    yield made
                finally:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)


def contiguous(heights: list[int]) -> bool:
    return heights == list(range(heights[0], heights[0] + len(heights)))


def fault(kind: Fault) -> Break:
    def apply(target: Rig) -> None:
        target.proxy.fault = kind

    return apply


def slow(target: Rig) -> None:
    target.proxy.delay_s = 2.0


def lies(target: Rig) -> None:
    target.proxy.rewrite = higher(1_000_000)


def lies_a_little(target: Rig) -> None:
    target.proxy.rewrite = higher(7)


def goes_back(target: Rig) -> None:
    target.proxy.rewrite = stuck_at(1)


def prunes(target: Rig) -> None:
    target.proxy.rewrite = pruned_below(1_000_000)


def turns_foreign(target: Rig) -> None:
    target.proxy.rewrite = another_chain("elsewhere")


def falls_behind(target: Rig) -> None:
    target.proxy.rewrite = catching_up


FAULTS: dict[str, Break] = {
    "drops": fault(Fault.DROP),
    "half-opens": fault(Fault.HALF_OPEN),
    "truncates": fault(Fault.TRUNCATE),
    "answers 5xx": fault(Fault.SERVER_ERROR),
    "delays": slow,
    "lies about its height": lies,
    "lies a little": lies_a_little,
    "goes back in height": goes_back,
    "serves a pruned range": prunes,
    "speaks for another chain": turns_foreign,
    "is catching up": falls_behind,
}
FAIRLY_SILENT = ("drops", "half-opens", "truncates", "answers 5xx", "goes back in height")


@pytest.mark.parametrize("name", FAULTS)
async def test_a_bad_node_beside_a_good_one_costs_no_block(name: str) -> None:
    async with rig(spare=True) as it:
        FAULTS[name](it)
        start = it.server.chain.height
        await it.until(lambda: it.heights[-1] >= start + 10)
        assert contiguous(it.heights)
        await it.until(lambda: it.server.chain.height - it.heights[-1] <= 3)
        await it.until(lambda: it.reader.tip.problem is None)


@pytest.mark.parametrize("name", FAULTS)
async def test_a_node_that_mends_is_followed_without_a_gap(name: str) -> None:
    async with rig(spare=False) as it:
        FAULTS[name](it)
        harmless = name in ("lies a little", "serves a pruned range")
        if not harmless:
            await it.until(lambda: it.reader.tip.problem is not None)
            assert it.reader.tip.problem is not None
            assert it.reader.tip.problem[1].endswith(".") or "correct spec.chain" in it.reader.tip.problem[1]
        start = it.server.chain.height
        await it.until(lambda: it.server.chain.height >= start + 3)
        it.proxy.fault, it.proxy.rewrite, it.proxy.delay_s = Fault.NONE, None, 0.0
        await it.until(lambda: it.heights[-1] >= start + 6)
        assert it.heights == sorted(set(it.heights))
        if name != "serves a pruned range":
            assert contiguous(it.heights)
        await it.until(lambda: it.reader.tip.problem is None)


@pytest.mark.parametrize("name", FAIRLY_SILENT)
async def test_a_silent_feed_is_known_within_two_blocks(name: str) -> None:
    """Counted in blocks that the chain made meanwhile, not in milliseconds."""
    async with rig(spare=False, block_s=0.4) as it:
        await it.until(lambda: it.heights[-1] == it.server.chain.height)
        FAULTS[name](it)
        last = it.server.chain.height
        await it.until(lambda: it.reader.silent or it.reader.tip.problem is not None)
        noticed = it.server.chain.height - last
        print(f"silent feed ({name}): known after {noticed} blocks (bar 2)")
        assert noticed <= 2


async def test_only_foreign_nodes_is_a_mistake_in_the_settings() -> None:
    async with rig(spare=False) as it:
        turns_foreign(it)
        with pytest.raises(ChainMismatch, match="'elsewhere', not 'step'"):
            await it.client.status()


async def test_an_answer_too_large_to_hold_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "MAX_ANSWER_BYTES", 500)
    async with DevnetServer(LeaseChain().chain, block_time_ms=0) as server:
        endpoint = Endpoint(server.endpoints.rpc, server.endpoints.grpc)
        async with ChainClient([endpoint], CHAIN_ID) as client:
            with pytest.raises(ChainUnreachable, match="more than 500 bytes"):
                await client.status()


# --- nodes that are behind -----------------------------------------------------------------------------------------


@asynccontextmanager
async def old_and_new() -> AsyncIterator[tuple[ChainClient, LeaseChain, ChainProxy, ChainProxy]]:
    """A client of a node that stands still before a lease was made, and of one that has it, each behind proxies."""
    world = LeaseChain()
    world.register()
    old = Devnet(chain_id=CHAIN_ID, params={})
    old.restore(world.chain.snapshot())
    world.lease(7, "5")
    async with (
        DevnetServer(old, block_time_ms=0) as behind,
        DevnetServer(world.chain, block_time_ms=0) as ahead,
        ChainProxy(ahead.endpoints.rpc, http=True) as web,
        ChainProxy(ahead.endpoints.grpc, http=False) as queries,
    ):
        endpoints = [
            Endpoint(behind.endpoints.rpc, behind.endpoints.grpc),
            Endpoint(web.address, queries.address),
        ]
        async with ChainClient(endpoints, CHAIN_ID, timeout_s=0.6, patience_s=PATIENCE_S) as client:
            yield client, world, web, queries


async def test_what_a_node_that_is_behind_does_not_know_is_not_absent() -> None:
    async with old_and_new() as (client, world, web, queries):
        (lease,) = world.lease(8, "5")
        client.floor_height = world.chain.height
        seen = await client.seen(client.lease(lease))
        assert seen.value is not None
        assert seen.height == world.chain.height
        web.fault = queries.fault = Fault.DROP
        with pytest.raises(ChainUnreachable):
            await client.lease(lease)
        with pytest.raises(ChainUnreachable):
            await client.leases(owner=lease.owner)
        # Without having read further, the same node's answer is an honest one, of its height.
        client.floor_height = 0
        stale = await client.seen(client.lease(lease))
        assert stale.value is None
        assert stale.height < world.chain.height


async def test_a_transaction_is_not_missing_because_one_node_is_behind() -> None:
    async with old_and_new() as (client, world, web, _):
        raw = world.raw(PROVIDER, send(5))
        height = world.block(raw).height
        found = await client.find_tx(tx_hash(raw), at_least_height=height)
        assert found is not None
        assert found[0] == height
        assert await client.find_tx("00" * 32, at_least_height=height) is None
        web.fault = Fault.DROP
        with pytest.raises(ChainUnreachable):
            await client.find_tx(tx_hash(raw), at_least_height=height)
        assert await client.find_tx(tx_hash(raw)) is None


async def test_bytes_handed_to_a_silent_node_go_to_the_next_and_are_not_known_to_be_in_one_only() -> None:
    async with old_and_new() as (client, world, web, _):
        raw = world.raw(PROVIDER, send(5), fee_uakt=50_000)
        await client.status()
        web.fault = Fault.HALF_OPEN
        answer = await client.broadcast(raw)
        assert (answer.code, answer.sole) == (0, False)
        web.fault = Fault.NONE
        await client.status()
        again = await client.broadcast(raw)
        assert again.code == 19 or (again.code == 0 and again.sole)


async def test_balances_are_pinned_to_the_height_of_their_answer() -> None:
    async with old_and_new() as (client, world, _, _):
        client.floor_height = world.chain.height
        seen = await client.seen(client.balances(PROVIDER.address), exact=True)
        assert seen.height == world.chain.height
        assert seen.value["uakt"] == world.chain.balance(PROVIDER.address, "uakt")


async def test_a_bid_can_be_read_with_its_deposit_after_a_failover() -> None:
    async with old_and_new() as (client, world, _, _):
        (lease,) = world.lease(9, "5")
        client.floor_height = world.chain.height
        bid = await client.bid(lease)
        assert bid is not None
        assert bid.deposit is not None
