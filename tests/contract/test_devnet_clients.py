"""Clients nobody here wrote, against the embedded chain."""

from __future__ import annotations

import asyncio
import time

import pytest
from cosmpy.aerial.client import LedgerClient, NetworkConfig
from cosmpy.aerial.wallet import LocalWallet
from cosmpy.crypto.keypairs import PrivateKey

from gpulease.devnet import genesis
from gpulease.devnet.chain import Devnet
from gpulease.devnet.serve import DevnetServer
from gpulease.units import NS_PER_S, UAKT, Coin

pytestmark = pytest.mark.contract


async def test_cosmpys_ledger_client_reads_sends_and_waits() -> None:
    sender = LocalWallet(PrivateKey(b"\x01" * 32), prefix="akash")
    receiver = LocalWallet(PrivateKey(b"\x02" * 32), prefix="akash")
    raw = genesis.default(
        chain_id="contract",
        accounts={str(sender.address()): [Coin(UAKT, 10_000_000)]},
        now_ns=time.time_ns() - NS_PER_S,
    )
    async with DevnetServer(Devnet.from_genesis(raw), block_time_ms=50) as server:
        config = NetworkConfig(
            chain_id="contract",
            url=f"grpc+http://{server.endpoints.grpc}",
            fee_minimum_gas_price=0.025,
            fee_denomination=UAKT,
            staking_denomination=UAKT,
        )

        def story() -> tuple[int, int, int]:
            ledger = LedgerClient(config, query_interval_secs=1, query_timeout_secs=20)
            before = ledger.query_bank_balance(sender.address(), UAKT)
            tx = ledger.send_tokens(receiver.address(), 1234, UAKT, sender)
            tx.wait_to_complete()
            return before, ledger.query_bank_balance(receiver.address(), UAKT), int(tx.response.code)

        assert await asyncio.to_thread(story) == (10_000_000, 1234, 0)
