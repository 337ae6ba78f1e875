"""Prices, burn and mint and their queries on the embedded chain, against the rules of the real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpulease.devnet import addresses, bank, bme, errors, genesis, oracle, routes
from gpulease.devnet.chain import Devnet
from gpulease.pb.akash.bme.v1 import msgs_pb2 as bme_msgs
from gpulease.pb.akash.bme.v1 import types_pb2
from gpulease.pb.akash.oracle.v2 import msgs_pb2 as oracle_msgs
from gpulease.pb.akash.oracle.v2 import prices_pb2
from gpulease.units import NS_PER_S, Coin, Dec

from cosmos.base.v1beta1.coin_pb2 import Coin as PbCoin

pytestmark = pytest.mark.contract

SAMPLES = json.loads((Path(__file__).parents[1] / "data/chain/rpc-samples.json").read_text())
START_NS = 1_800_000_000 * NS_PER_S
OWNER, FEED, SECOND = (addresses.encode(bytes([n]) * 20) for n in (1, 2, 3))


def make(*, vault_uakt: int = 0, sources: tuple[str, ...] = (FEED,)) -> Devnet:
    accounts = {OWNER: [Coin("uact", 1_000_000_000), Coin("uakt", 10_000_000_000)]}
    if vault_uakt:
        accounts[addresses.module("bme")] = [Coin("uakt", vault_uakt)]
    raw = genesis.default(chain_id="t", accounts=accounts, now_ns=START_NS, price_sources=sources)
    return Devnet.from_genesis(raw)


def feed(chain: Devnet, price: str, *, age_s: int = 0, source: str = FEED) -> None:
    msg = oracle_msgs.MsgAddPriceEntry(
        signer=source, id=prices_pb2.DataID(denom="akt", base_denom="usd"), price=str(Dec.of(price).raw)
    )
    msg.timestamp.FromNanoseconds(chain.time_ns - age_s * NS_PER_S)
    oracle.msg_add_price(chain.context(), msg)


def swap(chain: Devnet, amount: int, denom: str) -> None:
    cls = bme_msgs.MsgBurnACT if denom == "uact" else bme_msgs.MsgMintACT
    handler = bme.msg_burn_act if denom == "uact" else bme.msg_mint_act
    handler(chain.context(), cls(owner=OWNER, to=OWNER, coins_to_burn=PbCoin(denom=denom, amount=str(amount))))


def rest(chain: Devnet, path: str) -> tuple[int, Any]:
    return routes.answer(chain, path, ())


def end_types(chain: Devnet) -> list[str]:
    block = chain.block(chain.height)
    assert block is not None
    return [event.type.rpartition(".")[2] for event in block.end_events]


@pytest.mark.parametrize("path", ["/akash/bme/v1/params", "/akash/bme/v1/status", "/akash/oracle/v2/params"])
def test_rest_answers_are_the_recorded_ones(path: str) -> None:
    recorded = SAMPLES["rest"][path] if "rest" in SAMPLES else next(v[path] for v in SAMPLES.values() if path in v)
    sources = SAMPLES_ORACLE_SOURCES if path.endswith("v2/params") else (FEED,)
    status, body = rest(make(sources=tuple(sources)), path)
    assert (status, body) == (recorded["status"], recorded["body"])


SAMPLES_ORACLE_SOURCES = ("akash1lhskk0xxf7uvvzkuhmk0f3v8wd67lm5mmkv68g",)


def test_the_price_is_the_mean_over_the_window_and_goes_stale() -> None:
    chain = make()
    feed(chain, "1")
    chain.advance(4)
    feed(chain, "2")
    chain.advance(1)
    # One second at 2, the four before it at 1: the window is five seconds long.
    assert oracle.price(chain.context(), "uakt") == Dec.of("1.2")
    chain.advance(1, block_time_ns=601 * NS_PER_S)
    assert end_types(chain) == ["EventPriceStaled"]
    with pytest.raises(errors.ModuleError, match="price stalled"):
        oracle.price(chain.context(), "uakt")


def test_sources_that_disagree_make_the_price_unhealthy() -> None:
    chain = make(sources=(FEED, SECOND))
    feed(chain, "1")
    feed(chain, "1.2", source=SECOND)
    chain.advance()
    _, body = rest(chain, "/akash/oracle/v2/prices")
    assert [(p["id"]["source"], p["state"]["price"][:3]) for p in body["prices"]] == [(2, "1.2"), (1, "1.0")]
    health = oracle.aggregated(chain.context(), "akt")[1]
    assert list(health.failure_reason) == ["price deviation too high: 2000bps > 1000bps"]


@pytest.mark.parametrize(
    ("age_s", "price", "source", "words"),
    [
        (0, "0", FEED, "price must be positive"),
        (13, "1", FEED, "price timestamp is too old"),
        (-11, "1", FEED, "price timestamp is from future"),
        (0, "1", OWNER, f"source {OWNER} is not authorized oracle provider"),
    ],
)
def test_a_bad_price_is_refused(age_s: int, price: str, source: str, words: str) -> None:
    with pytest.raises(errors.ModuleError, match=words):
        feed(make(), price, age_s=age_s, source=source)


def test_the_breaker_follows_the_collateral() -> None:
    # 1000 ACT are out: a vault of 930 AKT at 1 USD covers 93 % of them, between the thresholds.
    chain = make(vault_uakt=930_000_000)
    chain.advance()
    assert bme.status(chain.context()).status == bme.HALT_ORACLE
    feed(chain, "1")
    chain.advance(2)
    breaker = bme.status(chain.context())
    assert (breaker.status, breaker.previous) == (bme.WARNING, bme.HALT_ORACLE)
    # 200 bps below the threshold are 20 steps of 10 %: 10 blocks become 67.
    assert breaker.epoch_blocks == 67
    feed(chain, "1.1")
    chain.advance(6)
    assert bme.status(chain.context())[:2] == (bme.HEALTHY, bme.WARNING)


def test_act_burned_becomes_uakt_while_minting_is_halted() -> None:
    chain = make()
    feed(chain, "0.5")
    chain.advance(2)
    with pytest.raises(errors.ModuleError, match="circuit breaker is active"):
        swap(chain, 1_000_000_000, "uakt")
    swap(chain, 1_000_000, "uact")
    supply = bank.supply(chain.context(), "uakt")
    chain.advance(12)
    context = chain.context()
    assert bank.supply(context, "uakt") - supply == 2_000_000
    assert bank.balance(context, OWNER, "uakt") == 10_002_000_000
    assert bank.supply(context, "uact") == 999_000_000
    _, body = rest(chain, "/akash/bme/v1/ledger")
    assert [entry["status"] for entry in body["records"]] == ["ledger_record_status_executed"]
    _, vault = rest(chain, "/akash/bme/v1/vault")
    assert vault["vault_state"]["total_burned"][0] == {"denom": "uact", "amount": "1000000"}


def test_act_minted_keeps_the_spread_and_its_uakt_is_reminted_first() -> None:
    chain = make(vault_uakt=2_000_000_000)
    feed(chain, "1")
    chain.advance(2)
    swap(chain, 100_000_000, "uakt")
    chain.advance(12)
    context = chain.context()
    assert bank.balance(context, OWNER, "uact") == 1_000_000_000 + 100_000_000 - 250_000
    assert bme.total(context, "credit", "uakt") == 100_000_000
    before = bank.supply(context, "uakt")
    swap(chain, 30_000_000, "uact")
    chain.advance(12)
    context = chain.context()
    assert bank.supply(context, "uakt") == before
    assert bme.total(context, "credit", "uakt") == 70_000_000


def test_a_mint_below_the_minimum_is_cancelled_and_refunded() -> None:
    chain = make(vault_uakt=2_000_000_000)
    feed(chain, "1")
    chain.advance(2)
    swap(chain, 9_999_999, "uakt")
    chain.advance(12)
    context = chain.context()
    assert bank.balance(context, OWNER, "uakt") == 10_000_000_000
    ((_, record),) = bme.records(context, "canceled")
    assert record.cancel_reason == types_pb2.LedgerCanceledRecord.minimum_mint
    assert bme.total(context, "pending", "uakt") == 0
