"""Every answer that a real node was sampled with, asked of ours: the same shape, the same errors, word for word.

The chain behind our node is the recorded walk up to a height like the sampled one. Heights, hashes and addresses are
our own; what names no such thing (parameters, errors, versions) has to be equal.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gpulease.devnet import genesis, replay
from gpulease.devnet.chain import Devnet, tx_hash
from gpulease.devnet.serve import DevnetServer

pytestmark = pytest.mark.contract

DATA = Path(__file__).parents[1] / "data/chain"
SAMPLES = json.loads((DATA / "rpc-samples.json").read_text())
SAMPLED_TIP = 118
TIP = 53  # of the walk: the block before holds one transaction, that failed, and orders are open
SAMPLED_TX = "008698670C399EDACB4D559318EBE6624781A88613A5DABB1BAD5F71992F9227"

# Answers that depend on no block: equal, but for the chain's name and, where noted, our own build.
EQUAL_RPC = ("health", "tx_missing", "block_too_high", "unknown_method", "broadcast_garbage", "akash")
EQUAL_REST = (
    "/cosmos/base/tendermint/v1beta1/syncing",
    f"/cosmos/tx/v1beta1/txs/{'0' * 64}",
    "/cosmos/auth/v1beta1/params",
    "/cosmos/auth/v1beta1/accounts/akash14pphss726thpwws3yc458hggufynm9x77l4l2u",
    "/cosmos/auth/v1beta1/accounts/akash1nothing",
    "/cosmos/bank/v1beta1/params",
    "/akash/market/v1beta5/params",
    "/akash/deployment/v1beta4/params",
    "/akash/discovery/v1/info",
    "/cosmos/authz/v1beta1/grants?granter=akash14pphss726thpwws3yc458hggufynm9x77l4l2u",
    "/akash/bme/v1/params",
    "/akash/bme/v1/status",
    "/akash/oracle/v2/params",
    "/akash/market/v1beta5/orders/list?filters.state=nonsense",
    "/cosmos/base/node/v1beta1/config",
)
# Kept by a real node's staking, mint and distribution, which are not modelled: lists that may be empty here.
MAY_BE_EMPTY = re.compile(r"finalize_block_events$")
KINDS = (
    ("hash", re.compile(r"^([0-9A-F]{64}|[0-9A-F]{40})$")),
    ("number", re.compile(r"^-?[0-9]+$")),
    ("decimal", re.compile(r"^[0-9]+\.[0-9]{18}$")),
    ("time", re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")),
    ("address", re.compile(r"^akash(valcons)?1[a-z0-9]{38}$")),
)


def kind(value: Any) -> str:
    if not isinstance(value, str):
        return type(value).__name__
    return next((name for name, pattern in KINDS if pattern.match(value)), "text")


def differences(sample: Any, ours: Any, at: str = "$") -> list[str]:
    """Where the shapes differ: keys, kinds of value, and items that are like none of the sample's."""
    if isinstance(sample, dict) and isinstance(ours, dict):
        if set(sample) != set(ours):
            return [f"{at}: keys {sorted(sample)}, ours {sorted(ours)}"]
        return [d for key in sample for d in differences(sample[key], ours[key], f"{at}.{key}")]
    if isinstance(sample, list) and isinstance(ours, list):
        if bool(sample) != bool(ours) and not MAY_BE_EMPTY.search(at):
            return [f"{at}: {len(sample)} items, ours {len(ours)}"]
        found = []
        for index, item in enumerate(ours):
            tried = [differences(wanted, item, f"{at}[{index}]") for wanted in sample]
            if tried and all(tried):
                found += min(tried, key=lambda words: len(words))
        return found
    if kind(sample) != kind(ours):
        return [f"{at}: {sample!r} ({kind(sample)}), ours {ours!r} ({kind(ours)})"]
    return []


def height_here(height: Any) -> str:
    return str(int(height) - SAMPLED_TIP + TIP)


def named(text: str) -> str:
    """A sampled answer in terms of our chain."""
    for sampled in (SAMPLED_TIP + 10_000, SAMPLED_TIP):
        text = re.sub(rf"(?<=height )\b{sampled}\b", height_here(sampled), text)
    return text


def in_our_terms(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: in_our_terms(item) for key, item in value.items()}
    if isinstance(value, list):
        return [in_our_terms(item) for item in value]
    return named(value) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def chain() -> Devnet:
    folder = DATA / "recordings/walk"
    chain = Devnet.from_genesis(json.loads((folder / "genesis.json").read_text()))
    for block in replay._lines(folder / "blocks.jsonl.gz"):
        if chain.height < TIP:
            raws = [base64.b64decode(tx["tx"]) for tx in block["txs"]]
            chain.apply_block(raws, time_ns=genesis.time_ns(block["time"]))
    return chain


@pytest.fixture
async def server(chain: Devnet) -> AsyncIterator[DevnetServer]:
    saved = chain.snapshot()
    async with DevnetServer(chain, block_time_ms=0) as server:
        yield server
    chain.restore(saved)


def failed_tx(chain: Devnet) -> bytes:
    block = chain.block(TIP - 1)
    assert block is not None
    ((raw, result),) = block.txs
    assert result.code != 0
    return tx_hash(raw)


def our_request(chain: Devnet, name: str, request: dict[str, Any]) -> dict[str, Any]:
    params = dict(request["params"])
    for key in ("height", "minHeight", "maxHeight"):
        if key in params:
            params[key] = height_here(params[key])
    if name == "tx":
        params["hash"] = base64.b64encode(failed_tx(chain)).decode()
    if "query" in params:
        params["query"] = re.sub(r"tx\.height=(\d+)", lambda m: f"tx.height={height_here(m[1])}", params["query"])
    return {**request, "params": params}


async def test_json_rpc_answers_as_sampled(server: DevnetServer) -> None:
    found = []
    async with aiohttp.ClientSession() as session:
        for name, sample in SAMPLES["rpc"].items():
            request = our_request(server.chain, name, sample["request"])
            async with session.post(server.endpoints.rpc, json=request) as response:
                ours = await response.json()
            wanted = in_our_terms(sample["response"])
            if name == "akash":
                wanted["result"]["chain_id"] = server.chain.chain_id
            if name in EQUAL_RPC and wanted != ours:
                found.append(f"{name}: {wanted}, ours {ours}")
            found += [f"{name} {words}" for words in differences(wanted, ours)]
    print(f"\nrpc samples compared {len(SAMPLES['rpc'])}, differences {len(found)}")
    assert not found, "\n".join(found)


async def test_rest_answers_as_sampled(server: DevnetServer) -> None:
    found = []
    async with aiohttp.ClientSession() as session:
        for path, sample in SAMPLES["rest"].items():
            ours_path = path.replace(SAMPLED_TX, failed_tx(server.chain).hex().upper())
            async with session.get(server.endpoints.rest + ours_path) as response:
                status, ours = response.status, await response.json()
            wanted = sample["body"]
            if path.endswith("/discovery/v1/info"):
                wanted["info"]["chain_id"] = server.chain.chain_id
            if status != sample["status"]:
                found.append(f"{path}: status {sample['status']}, ours {status}")
            if path in EQUAL_REST and wanted != ours:
                found.append(f"{path}: {wanted}, ours {ours}")
            found += [f"{path} {words}" for words in differences(wanted, ours)]
    print(f"\nrest samples compared {len(SAMPLES['rest'])}, differences {len(found)}")
    assert not found, "\n".join(found)


async def test_the_websocket_answers_as_sampled(server: DevnetServer) -> None:
    """The sampled subscriptions, then a block with the walk's next transactions."""
    sent = [entry["sent"] for entry in SAMPLES["websocket"] if "sent" in entry]
    received = [entry["received"] for entry in SAMPLES["websocket"] if "received" in entry]
    following = next(
        block
        for block in replay._lines(DATA / "recordings/walk/blocks.jsonl.gz")
        if block["height"] > TIP and any(creates(tx) for tx in block["txs"])
    )
    found = []
    async with aiohttp.ClientSession() as session, session.ws_connect(server.endpoints.rpc + "/websocket") as ws:
        answers = []
        for request in sent:
            await ws.send_json(request)
            answers.append(await ws.receive_json(timeout=5))
        for wanted, ours in zip(received[: len(sent)], answers, strict=True):
            if wanted != ours:
                found.append(f"{wanted}, ours {ours}")
        for block in replay._lines(DATA / "recordings/walk/blocks.jsonl.gz"):
            if TIP < block["height"] <= following["height"]:
                raws = [base64.b64decode(tx["tx"]) for tx in block["txs"]]
                server._publish(server.chain.apply_block(raws, time_ns=genesis.time_ns(block["time"])))
        pushed: list[Any] = []
        while not any(p["id"] == 1 and created(p) for p in pushed):
            pushed.append(await ws.receive_json(timeout=5))
        for wanted in received[len(sent) :]:
            ours = next(p for p in pushed if p["id"] == wanted["id"] and (wanted["id"] == 0 or created(p)))
            found += differences(without_index(wanted), without_index(ours))
    print(f"\nwebsocket samples compared {len(received)}, differences {len(found)}")
    assert not found, "\n".join(found)


def creates(tx: dict[str, Any]) -> bool:
    return tx["code"] == 0 and any(e["type"] == "akash.deployment.v1.EventDeploymentCreated" for e in tx["events"])


def created(pushed: dict[str, Any]) -> bool:
    return "akash.deployment.v1.EventDeploymentCreated.id" in pushed["result"].get("events", {})


def without_index(pushed: Any) -> Any:
    """A transaction's index is left out where it is the first one of its block."""
    pushed["result"]["data"]["value"].get("TxResult", {}).pop("index", None)
    return pushed
