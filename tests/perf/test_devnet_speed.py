"""How fast the embedded chain applies transactions and empty blocks in step mode, on one core.

Counts come before times: every transaction of a timed run has to be in a block with code 0. CPU time of this process
is measured, the best of several runs, so that other load on the machine does not decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from gpulease.devnet import ante
from gpulease.devnet.chain import Devnet
from gpulease.units import NS_PER_S, UACT
from tests.fakes.ledger import (
    Ledger,
    Person,
    create_bid,
    create_deployment,
    create_lease,
    create_provider,
    withdraw,
)

pytestmark = pytest.mark.perf
RUNS = 3
TXS_PER_S, EMPTY_BLOCKS_PER_S = 500, 20_000
TENANTS, DEPLOYMENTS, PER_BLOCK = 10, 20, 50
EMPTY_BLOCKS = 20_000


def cpu_s(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def market_txs() -> tuple[Ledger, bytes, list[bytes]]:
    """A snapshot and what is to be applied to it: deployments, bids, leases and withdrawals, all signed ahead."""
    people = [Person(n) for n in range(1, TENANTS + 2)]
    ledger = Ledger(people)
    provider, tenants = people[0], people[1:]
    ledger.ok(provider, create_provider(provider))
    start = ledger.chain.snapshot()
    used = {person.address: 0 for person in people} | {provider.address: 1}
    raws = []

    def add(signer: Person, message: object) -> None:
        sequences = [used[signer.address]]
        raws.append(ledger.signed(signer, message, sequences=sequences))  # type: ignore[arg-type]
        used[signer.address] += 1

    for dseq in range(1, DEPLOYMENTS + 1):
        for tenant in tenants:
            add(tenant, create_deployment(tenant, dseq))
            add(provider, create_bid(tenant, provider, dseq))
            add(tenant, create_lease(tenant, provider, dseq))
    for dseq in range(1, DEPLOYMENTS + 1):
        for tenant in tenants:
            add(provider, withdraw(tenant, provider, dseq))
    return ledger, start, raws


def test_transactions_applied_per_second_in_step_mode() -> None:
    ledger, start, raws = market_txs()
    chain = ledger.chain
    codes: list[int] = []

    def run() -> None:
        codes.clear()
        for first in range(0, len(raws), PER_BLOCK):
            for raw in raws[first : first + PER_BLOCK]:
                assert chain.add_to_mempool(raw).code == 0
            chain.advance()
            block = chain.block(chain.height)
            assert block is not None
            codes.extend(result.code for _, result in block.txs)

    found = float("inf")
    for _ in range(RUNS):
        chain.restore(start)
        ante.decode.cache_clear()  # or a later run would find the earlier one's
        found = min(found, cpu_s(run))
        assert codes == [0] * len(raws)
    per_s = int(len(raws) / found)
    print(f"\ntransactions checked and applied: {len(raws)}, {per_s}/s on one core (bar {TXS_PER_S}/s)")
    assert ledger.balance(ledger.people[0], UACT) != 0
    assert per_s >= TXS_PER_S


def test_empty_blocks_per_second_in_step_mode() -> None:
    chain: Devnet = Ledger([Person(1)]).chain
    began_height, began_ns = chain.height, chain.time_ns
    found = min(cpu_s(lambda: chain.advance(EMPTY_BLOCKS)) for _ in range(RUNS))
    assert chain.height - began_height == RUNS * EMPTY_BLOCKS
    assert chain.time_ns - began_ns == RUNS * EMPTY_BLOCKS * NS_PER_S
    per_s = int(EMPTY_BLOCKS / found)
    print(f"\nempty blocks: {EMPTY_BLOCKS}, {per_s}/s on one core (bar {EMPTY_BLOCKS_PER_S}/s)")
    assert per_s >= EMPTY_BLOCKS_PER_S
