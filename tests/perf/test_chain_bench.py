"""Chain and money in figures: fifty withdrawals beside a bid, and what truncation costs a month."""

from __future__ import annotations

import asyncio
import time

import pytest

from gpulease.chain import codec
from gpulease.chain.broadcaster import Broadcaster
from gpulease.chain.client import ChainClient, Endpoint
from gpulease.chain.outbox import Intent, Priority
from gpulease.chain.reader import BlockReader
from gpulease.chain.tx import pack
from gpulease.devnet.serve import DevnetServer
from gpulease.ids import LeaseId
from gpulease.market.model import EscrowAccount, EscrowPayment, EscrowState
from gpulease.money.runway import owed_uact, project
from gpulease.money.settlement import SettlementPolicy, decide
from gpulease.runtime.clock import SystemClock
from gpulease.runtime.outbox import JournalOutbox
from gpulease.store.journal import Journal
from gpulease.units import UACT, Coin, Dec, DecCoin
from tests.fakes.lease_chain import CHAIN_ID, DEPOSIT_UACT, PROVIDER, LeaseChain

pytestmark = pytest.mark.perf
LEASES = 50
BLOCK_S = 1.0
MONTH_BLOCKS, HOUR_BLOCKS = 429_909, 597
POLICY = SettlementPolicy(period_blocks=24 * HOUR_BLOCKS)
RATES = ("0.1", "0.3", "0.9", "1.5", "9.99", "123.456", "1000.1", "12345.678901", "99999.9", "1000000")


async def test_fifty_withdrawals_in_one_transaction_and_a_bid_in_the_next_block() -> None:
    world = LeaseChain()
    world.register()
    leases = [lease for number in range(LEASES) for lease in world.lease(1000 + number, "3")]
    order = LeaseId(*(world.order(5).owner, 5, 1, 1), PROVIDER.address)
    world.block()
    async with DevnetServer(world.chain, block_time_ms=int(BLOCK_S * 1000)) as server:
        endpoint = Endpoint(server.endpoints.rpc, server.endpoints.grpc)
        async with ChainClient([endpoint], CHAIN_ID) as client:
            cursor = [world.chain.height]

            async def nothing(_: int) -> None:
                return None

            sender = Broadcaster(
                client=client,
                outbox=JournalOutbox(Journal(":memory:")),
                signer=PROVIDER,
                clock=SystemClock(),
                chain_time_ns=lambda: reader.tip.time_ns,
                gas_price_uakt=Dec.of("0.025"),
            )
            reader = BlockReader(
                client,
                clock=SystemClock(),
                load_cursor=lambda: cursor[0],
                save_cursor=lambda height: cursor.__setitem__(0, height),
                on_block=sender.on_block,
                on_resync=nothing,
                poll_s=0.05,
            )
            tasks = [asyncio.create_task(reader.run()), asyncio.create_task(sender.run(idle_s=0.5))]
            height = world.chain.height
            while world.chain.height < height + 2 or reader.tip.height < world.chain.height:
                await asyncio.sleep(0.01)
            began, height = time.perf_counter(), world.chain.height
            for lease in leases:
                message = pack(codec.withdraw_lease(lease))
                sender.submit(Intent(f"w/{lease}", "withdraw", (message,), PROVIDER.address, Priority.MONEY))
            bid = codec.create_bid(order, price=DecCoin(UACT, Dec.of(1)), deposit=Coin(UACT, DEPOSIT_UACT))
            sender.submit(Intent("bid", "bid", (pack(bid),), PROVIDER.address, Priority.MARKET))
            keys = ["bid", *(f"w/{lease}" for lease in leases)]
            while not all((e := sender.outcome(key)) is not None and e.state.final for key in keys):
                await asyncio.sleep(0.01)
            took_ms = (time.perf_counter() - began) * 1000
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    entries = [sender.outcome(key) for key in keys]
    assert all(entry is not None and entry.succeeded for entry in entries)
    heights = [entry.height - height for entry in entries if entry is not None]
    txs = len({entry.hash for entry in entries[1:] if entry is not None})
    print(
        f"{LEASES} withdrawals of {LEASES} leases: {txs} tx (bar 1), included after {heights[1]} block; "
        f"a bid of the same moment after {heights[0]} block (bar 1); known after {took_ms:.0f} ms of {BLOCK_S} s blocks"
    )
    assert txs == 1
    assert set(heights) == {1}


def lost_uact(rate: Dec, policy: SettlementPolicy | None) -> tuple[Dec, int]:
    """What a month of one lease loses to truncation, and in how many withdrawals: by policy, or hourly.

    The account is topped up long before its end, as a tenant that wants to go on does.
    """
    zero = DecCoin(UACT, Dec())
    payment = EscrowPayment(
        "deployment", "o/1", "1/1/p", "p", EscrowState.OPEN, DecCoin(UACT, rate), zero, zero, Coin(UACT, 0)
    )
    funds = DecCoin(UACT, rate * (10 * MONTH_BLOCKS))
    settled_at = height = paid = withdrawals = 0
    while height < MONTH_BLOCKS:
        account = EscrowAccount("deployment", "o/1", "o", EscrowState.OPEN, settled_at, (funds,), (), ())
        owed = owed_uact(payment, account, height=height)
        if policy is None:
            withdraw, following = height - settled_at >= HOUR_BLOCKS, settled_at + HOUR_BLOCKS
        else:
            run_out = project(account, [payment], height=height).run_out_height
            decision = decide(policy, height=height, settled_at=settled_at, owed_uact=owed, run_out_height=run_out)
            assert decision.next_check_height is not None
            withdraw, following = decision.withdraw, decision.next_check_height
        if withdraw:
            paid, settled_at, withdrawals = paid + owed, height, withdrawals + 1
            continue
        height = min(max(following, height + 1), MONTH_BLOCKS)
    account = EscrowAccount("deployment", "o/1", "o", EscrowState.OPEN, settled_at, (funds,), (), ())
    paid += owed_uact(payment, account, height=MONTH_BLOCKS)
    return rate * MONTH_BLOCKS - Dec.of(paid), withdrawals + 1


def test_units_lost_to_truncation_in_a_month() -> None:
    print(f"{'uact/block':>14} {'ours: lost uact':>16} {'txs':>5} {'hourly: lost uact':>18} {'txs':>5}")
    for text in RATES:
        rate = Dec.of(text)
        (ours, few), (hourly, many) = lost_uact(rate, POLICY), lost_uact(rate, None)
        print(f"{text:>14} {str(ours)[:-12]:>16} {few:>5} {str(hourly)[:-12]:>18} {many:>5}")
        assert Dec() <= ours <= Dec.of(few), "less than a unit for each settlement"
        assert few < many
        assert ours <= hourly
