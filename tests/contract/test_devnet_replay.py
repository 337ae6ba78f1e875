"""The state machine against what the real chain did."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from gpulease.devnet import genesis, replay
from gpulease.devnet.chain import Devnet, tx_hash
from gpulease.devnet.exemptions import is_exempt

pytestmark = pytest.mark.contract

RECORDINGS = Path(__file__).parents[1] / "data/chain/recordings"


@pytest.mark.parametrize("name", ["walk", "scenarios", "extras"])
def test_a_recording_replays_without_a_difference(name: str) -> None:
    tallies = replay.run(RECORDINGS / name)
    text, equal = replay.report(tallies)
    print(f"\n{name}\n{text}")
    assert equal, text


@pytest.mark.parametrize("name", ["walk", "scenarios", "extras"])
def test_what_a_block_holds_passes_check_tx_before_it_and_survives_a_snapshot(name: str) -> None:
    """Whatever a real block holds was let in by CheckTx; and a node that restarts goes on as one that did not."""
    folder = RECORDINGS / name
    raw = json.loads((folder / "genesis.json").read_text())
    chain, restarted, checked = Devnet.from_genesis(raw), Devnet.from_genesis(raw), 0
    for block in replay._lines(folder / "blocks.jsonl.gz"):
        raws = [base64.b64decode(tx["tx"]) for tx in block["txs"]]
        for tx, bytes_ in zip(block["txs"], raws, strict=True):
            result = chain.add_to_mempool(bytes_)
            assert result.code == 0, f"{block['height']} {tx['label']}: {result.log}"
            checked += 1
        at = genesis.time_ns(block["time"])
        spent = frozenset(tx_hash(base64.b64decode(tx["tx"])) for tx in block["txs"] if is_exempt(tx))
        ours = chain.apply_block(raws, time_ns=at, out_of_gas=spent)
        assert not chain.mempool
        assert restarted.apply_block(raws, time_ns=at, out_of_gas=spent) == ours
        if block["height"] % 20 == 0:
            saved, restarted = restarted.snapshot(), Devnet(chain_id="", params={})
            restarted.restore(saved)
    print(f"\n{name}: {checked} recorded transactions pass CheckTx")
