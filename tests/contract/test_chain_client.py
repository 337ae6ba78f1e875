"""Client, reader and broadcaster against the embedded chain: the story of one lease, paid once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from gpulease.chain import codec
from gpulease.chain.broadcaster import Broadcaster
from gpulease.chain.client import ChainClient, Endpoint
from gpulease.chain.events import Block, LeaseCreated, OrderCreated
from gpulease.chain.keys import Key
from gpulease.chain.outbox import Intent
from gpulease.chain.reader import BlockReader
from gpulease.chain.tx import pack
from gpulease.devnet import genesis
from gpulease.devnet.chain import Devnet
from gpulease.devnet.serve import DevnetServer
from gpulease.errors import ChainMismatch, ChainUnreachable
from gpulease.ids import DeploymentId
from gpulease.market import model as m
from gpulease.runtime.clock import SystemClock
from gpulease.runtime.outbox import JournalOutbox
from gpulease.store.journal import Journal
from gpulease.units import NS_PER_S, UACT, UAKT, Coin, Dec, DecCoin

pytestmark = pytest.mark.contract

PROVIDER, TENANT = Key(b"\x11" * 32), Key(b"\x22" * 32)
GPU = m.Attribute("vendor/nvidia/model/a100", "true")
HTTP = m.Endpoint(m.EndpointKind.SHARED_HTTP)
SPEC = m.GroupSpec(
    "g",
    m.PlacementRequirements(),
    (
        m.ResourceUnit(
            m.Resources(
                1, 1000, 1 << 29, (m.Storage("default", 1 << 30),), 1, (GPU,), (m.Endpoint(m.EndpointKind(0)),)
            ),
            1,
            DecCoin(UACT, Dec.of("100")),
        ),
    ),
)


def new_chain() -> Devnet:
    funds = [Coin(UACT, 10**12), Coin(UAKT, 10**12)]
    accounts = {PROVIDER.address: funds, TENANT.address: funds}
    return Devnet.from_genesis(
        genesis.default(chain_id="contract", accounts=accounts, now_ns=time.time_ns() - NS_PER_S)
    )


class Party:
    """One account's client, reader and broadcaster, on its own store."""

    def __init__(self, server: DevnetServer, key: Key, store: Path | str) -> None:
        self.client = ChainClient([Endpoint(server.endpoints.rpc, server.endpoints.grpc)], "contract")
        self.journal = Journal(store)
        self.blocks: list[Block] = []
        self.cursor: int | None = None
        self.reader = BlockReader(
            self.client,
            clock=SystemClock(),
            load_cursor=lambda: self.cursor,
            save_cursor=self._save,
            on_block=self._on_block,
            on_resync=self._on_resync,
            poll_s=0.05,
        )
        self.broadcaster = Broadcaster(
            client=self.client,
            outbox=JournalOutbox(self.journal),
            signer=key,
            clock=SystemClock(),
            chain_time_ns=lambda: self.reader.tip.time_ns,
            gas_price_uakt=Dec.of("0.025"),
            lifetime_s=5.0,
        )
        self._tasks: list[asyncio.Task[None]] = []

    def _save(self, height: int) -> None:
        self.cursor = height

    async def _on_block(self, block: Block) -> None:
        self.blocks.append(block)
        await self.broadcaster.on_block(block)

    async def _on_resync(self, height: int) -> None:
        return None

    async def __aenter__(self) -> Party:
        await self.client.open()
        self._tasks = [asyncio.create_task(self.reader.run()), asyncio.create_task(self.broadcaster.run(idle_s=0.05))]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.close()
        self.journal.close()

    async def done(self, key: str, message: object) -> int:
        """Submit and wait; the height it was included at."""
        self.broadcaster.submit(Intent(key, "test", (pack(message),), self.broadcaster.address))  # type: ignore[arg-type]
        for _ in range(400):
            entry = self.broadcaster.outcome(key)
            assert entry is not None
            if entry.state.final:
                assert entry.succeeded, entry.problem
                return entry.height
            await asyncio.sleep(0.02)
        raise AssertionError(f"{key} was not settled: {self.broadcaster.problem}")


async def test_a_lease_from_order_to_close() -> None:
    chain = new_chain()
    async with (
        DevnetServer(chain, block_time_ms=50) as server,
        Party(server, PROVIDER, ":memory:") as seller,
        Party(server, TENANT, ":memory:") as buyer,
    ):
        did = DeploymentId(TENANT.address, 77)
        record = m.ProviderRecord(
            PROVIDER.address, "https://p.example.test:8443", (m.Attribute("capabilities/gpu/" + GPU.key, "true"),)
        )
        await seller.done("record", codec.provider_record(record, exists=False))
        assert await seller.client.provider(PROVIDER.address) == record
        deploy = codec.create_deployment(did, (SPEC,), hash_=b"\x07" * 32, deposit=Coin(UACT, 500_000))
        height = await buyer.done("deploy", deploy)
        (order,) = await seller.client.orders(state="open")
        assert order.spec == SPEC
        bid = order.id.bid(PROVIDER.address)
        await seller.done("bid", codec.create_bid(bid, price=DecCoin(UACT, Dec.of("50")), deposit=Coin(UACT, 500_000)))
        await buyer.done("lease", codec.create_lease(bid))
        lease = await buyer.client.lease(bid)
        assert lease is not None
        assert (lease.state, lease.price) == (m.LeaseState.ACTIVE, DecCoin(UACT, Dec.of("50")))
        await asyncio.sleep(0.3)
        await seller.done("withdraw", codec.withdraw_lease(bid))
        await buyer.done("close", codec.close_deployment(did))
        closed = await buyer.client.deployment(did)
        assert closed is not None
        assert closed.state is m.DeploymentState.CLOSED
        seen = [event for block in seller.blocks for event in block.events]
        assert OrderCreated(order.id) in seen
        assert LeaseCreated(bid) in seen
        assert height in [block.height for block in seller.blocks]
        assert seller.reader.tip.measured
        earned = (await seller.client.balances(PROVIDER.address))[UACT] - 10**12
        paid = 10**12 - (await buyer.client.balances(TENANT.address))[UACT]
        assert earned == paid > 0


async def test_the_same_intent_twice_is_one_transaction_also_after_a_restart(tmp_path: Path) -> None:
    async with DevnetServer(new_chain(), block_time_ms=50) as server:
        did = DeploymentId(TENANT.address, 5)
        deploy = codec.create_deployment(did, (SPEC,), hash_=b"\x07" * 32, deposit=Coin(UACT, 500_000))
        async with Party(server, TENANT, tmp_path / "a.db") as first:
            height = await first.done("deploy", deploy)
        async with Party(server, TENANT, tmp_path / "a.db") as again:
            assert await again.done("deploy", deploy) == height
            assert (await again.client.balances(TENANT.address))[UACT] == 10**12 - 500_000


async def test_another_chain_and_no_chain_are_told_apart() -> None:
    async with DevnetServer(new_chain(), block_time_ms=50) as server:
        endpoint = Endpoint(server.endpoints.rpc, server.endpoints.grpc)
        async with ChainClient([endpoint], "mainnet") as client:
            with pytest.raises(ChainMismatch, match="'contract', not 'mainnet'"):
                await client.status()
    async with ChainClient([endpoint], "contract", timeout_s=0.5) as client:
        with pytest.raises(ChainUnreachable, match="did not answer"):
            await client.status()
