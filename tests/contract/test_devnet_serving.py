"""What the devnet serves beyond the samples: transactions over each protocol, pushed blocks, the faucet, the pace."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from gpulease.devnet.chain import tx_hash
from gpulease.devnet.serve import DevnetServer
from gpulease.units import UAKT
from tests.fakes.ledger import Ledger, Person, coin

from cosmos.bank.v1beta1 import tx_pb2 as bank_tx
from cosmos.tx.v1beta1 import service_pb2

pytestmark = pytest.mark.contract
ALICE, BOB = Person(1), Person(2)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger([ALICE, BOB])


@pytest.fixture
async def server(ledger: Ledger) -> AsyncIterator[DevnetServer]:
    async with DevnetServer(ledger.chain, block_time_ms=0, faucet_limit=100) as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def paying(ledger: Ledger, amount: int, **how: Any) -> bytes:
    message = bank_tx.MsgSend(from_address=ALICE.address, to_address=BOB.address, amount=[coin(UAKT, amount)])
    return ledger.signed(ALICE, message, **how)


async def call(http: aiohttp.ClientSession, server: DevnetServer, method: str, params: Any = None) -> dict[str, Any]:
    request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params or {}}
    async with http.post(server.endpoints.rpc, json=request) as response:
        assert response.status == 200
        answer: dict[str, Any] = await response.json()
        assert answer["id"] == 7
        return answer


async def test_json_rpc_takes_a_transaction_in_three_ways(
    http: aiohttp.ClientSession, server: DevnetServer, ledger: Ledger
) -> None:
    raw = base64.b64encode(paying(ledger, 5)).decode()
    sync = await call(http, server, "broadcast_tx_sync", {"tx": raw})
    assert sync["result"]["code"] == 0
    again = await call(http, server, "broadcast_tx_sync", {"tx": raw})
    assert again["error"] == {"code": -32603, "message": "Internal error", "data": "tx already exists in cache"}
    bad = base64.b64encode(paying(ledger, 6, sequences=[9])).decode()
    silent = await call(http, server, "broadcast_tx_async", [bad])
    assert (silent["result"]["code"], silent["result"]["log"]) == (0, "")
    commit = asyncio.create_task(
        call(http, server, "broadcast_tx_commit", {"tx": base64.b64encode(paying(ledger, 6, sequences=[1])).decode()})
    )
    while len(server.chain.mempool) < 2:
        await asyncio.sleep(0.005)
    server.make_block()
    done = (await commit)["result"]
    assert (done["check_tx"]["code"], done["tx_result"]["code"], done["height"]) == (0, 0, "1")
    found = await call(http, server, "tx", {"hash": base64.b64encode(bytes.fromhex(done["hash"])).decode()})
    assert found["result"]["tx_result"]["events"] == done["tx_result"]["events"]
    refused = await call(http, server, "broadcast_tx_commit", {"tx": bad})
    assert refused["result"]["check_tx"]["code"] == 32
    async with http.get(f"{server.endpoints.rpc}/tx", params={"hash": f"0x{done['hash']}"}) as response:
        assert (await response.json())["result"]["height"] == "1"
    async with http.get(f"{server.endpoints.rpc}/header", params={"height": "1"}) as response:
        assert (await response.json())["result"]["header"]["height"] == "1"


async def test_grpc_simulates_broadcasts_and_finds(server: DevnetServer, ledger: Ledger) -> None:
    raw = paying(ledger, 5)
    async with grpc.aio.insecure_channel(server.endpoints.grpc) as channel:

        def method(name: str, request: Any, response: Any) -> Any:
            return channel.unary_unary(
                f"/cosmos.tx.v1beta1.Service/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )

        simulate = method("Simulate", service_pb2.SimulateRequest, service_pb2.SimulateResponse)
        simulated = await simulate(service_pb2.SimulateRequest(tx_bytes=paying(ledger, 5, fee=[], gas=0)))
        assert simulated.gas_info.gas_used > 0
        assert ledger.balance(BOB, UAKT) == 10**12
        with pytest.raises(grpc.aio.AioRpcError, match="insufficient funds"):
            await simulate(service_pb2.SimulateRequest(tx_bytes=paying(ledger, 10**13)))
        broadcast = method("BroadcastTx", service_pb2.BroadcastTxRequest, service_pb2.BroadcastTxResponse)
        sent = await broadcast(service_pb2.BroadcastTxRequest(tx_bytes=raw, mode=2))
        assert (sent.tx_response.code, sent.tx_response.txhash) == (0, tx_hash(raw).hex().upper())
        get = method("GetTx", service_pb2.GetTxRequest, service_pb2.GetTxResponse)
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await get(service_pb2.GetTxRequest(hash=sent.tx_response.txhash))
        assert missing.value.code() is grpc.StatusCode.NOT_FOUND
        server.make_block()
        found = await get(service_pb2.GetTxRequest(hash=sent.tx_response.txhash))
        assert (found.tx_response.height, found.tx_response.code) == (1, 0)
        search = method("GetTxsEvent", service_pb2.GetTxsEventRequest, service_pb2.GetTxsEventResponse)
        listed = await search(service_pb2.GetTxsEventRequest(query="tx.height=1"))
        assert [r.txhash for r in listed.tx_responses] == [sent.tx_response.txhash]


async def test_rest_simulates_broadcasts_and_pages(
    http: aiohttp.ClientSession, server: DevnetServer, ledger: Ledger
) -> None:
    body = {"tx_bytes": base64.b64encode(paying(ledger, 5)).decode(), "mode": "BROADCAST_MODE_SYNC"}
    rest = server.endpoints.rest
    async with http.post(f"{rest}/cosmos/tx/v1beta1/simulate", json=body) as response:
        assert int((await response.json())["gas_info"]["gas_used"]) > 0
    async with http.post(f"{rest}/cosmos/tx/v1beta1/txs", json=body) as response:
        assert (await response.json())["tx_response"]["code"] == 0
    server.make_block()
    path = f"{rest}/cosmos/bank/v1beta1/balances/{BOB.address}"
    async with http.get(path, params={"pagination.limit": "1"}) as response:
        first = await response.json()
    async with http.get(path, params={"pagination.key": first["pagination"]["next_key"]}) as response:
        second = await response.json()
    denoms = [b["denom"] for page in (first, second) for b in page["balances"]]
    assert denoms == ["uact", "uakt"]
    server.make_block()
    older = {"x-cosmos-block-height": "1"}
    async with http.get(path, headers=older) as response:
        assert response.headers["Grpc-Metadata-X-Cosmos-Block-Height"] == "1"
    async with http.get(path, headers={"x-cosmos-block-height": "9"}) as response:
        assert (response.status, (await response.json())["code"]) == (500, 2)
    async with http.get(f"{rest}/no/such/path") as response:
        assert (response.status, (await response.json())["code"]) == (501, 12)


async def test_the_websocket_pushes_headers_blocks_and_transactions(
    http: aiohttp.ClientSession, server: DevnetServer, ledger: Ledger
) -> None:
    async with http.ws_connect(server.endpoints.rpc + "/websocket") as ws:

        async def ask(id_: int, method: str, **params: str) -> dict[str, Any]:
            await ws.send_json({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})
            answer: dict[str, Any] = await ws.receive_json(timeout=5)
            return answer

        for id_, query in enumerate(("tm.event='NewBlockHeader'", "tm.event='NewBlock'", "tm.event='Tx'")):
            assert (await ask(id_, "subscribe", query=query))["result"] == {}
        assert (await ask(5, "subscribe", query="tm.event='Tx'"))["error"]["data"] == "already subscribed"
        narrow = f"tm.event='Tx' AND transfer.recipient='{Person(9).address}'"
        assert (await ask(3, "subscribe", query=narrow))["result"] == {}
        assert (await ask(4, "health"))["result"] == {}
        server.chain.add_to_mempool(paying(ledger, 5))
        server.make_block()
        pushed = [await ws.receive_json(timeout=5) for _ in range(3)]
        assert {p["id"]: p["result"]["data"]["type"] for p in pushed} == {
            0: "tendermint/event/NewBlockHeader",
            1: "tendermint/event/NewBlock",
            2: "tendermint/event/Tx",
        }
        block = next(p for p in pushed if p["id"] == 1)["result"]["data"]["value"]
        assert len(block["block"]["data"]["txs"]) == 1
        assert (await ask(6, "unsubscribe", query=narrow))["result"] == {}
        assert (await ask(7, "unsubscribe", query=narrow))["error"]["data"] == "subscription not found"
        assert (await ask(8, "unsubscribe_all"))["result"] == {}
        server.make_block()
        assert (await ask(9, "health"))["id"] == 9


async def test_the_faucet_has_a_limit(http: aiohttp.ClientSession, server: DevnetServer) -> None:
    url, stranger = f"{server.endpoints.rest}/faucet", Person(9).address
    for coins, status in ((["60uakt"], 200), (["41uakt"], 429), (["40uakt", "5uact"], 200), (["x"], 400), ([], 400)):
        async with http.post(url, json={"address": stranger, "coins": coins}) as response:
            assert response.status == status, await response.text()
    async with http.post(url, json={"address": "akash1nothing", "coins": ["1uakt"]}) as response:
        assert response.status == 400
    assert server.chain.balance(stranger, UAKT) == 100


async def test_blocks_every_ten_milliseconds(ledger: Ledger) -> None:
    async with DevnetServer(ledger.chain, block_time_ms=10) as server:
        began = time.monotonic()
        while server.chain.height < 50:
            await asyncio.sleep(0.01)
            assert time.monotonic() - began < 20
    # Never faster than asked; how much slower is the machine's affair.
    assert time.monotonic() - began >= 48 * 0.01


async def test_the_commands_serve_and_ask_the_faucet(tmp_path: Path) -> None:
    """The process as a user starts it, and a second one that asks it for coins."""
    ports = ["--rpc-port", "0", "--grpc-port", "0", "--rest-port", "0"]
    command = [sys.executable, "-m", "gpulease", "devnet", "--home", str(tmp_path), "--faucet-limit", "100"]
    node = await asyncio.create_subprocess_exec(*command, *ports, stdout=asyncio.subprocess.PIPE)
    assert node.stdout is not None
    try:
        ready = json.loads(await asyncio.wait_for(node.stdout.readline(), 60))

        async def faucet(*coins: str) -> tuple[int, str]:
            asking = [sys.executable, "-m", "gpulease", "devnet", "faucet", Person(9).address, *coins]
            process = await asyncio.create_subprocess_exec(
                *asking, "--rest", ready["rest"], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            out, _ = await asyncio.wait_for(process.communicate(), 60)
            assert process.returncode is not None
            return process.returncode, out.decode().strip()

        assert await faucet("60uakt", "1uact") == (0, f"{Person(9).address} has been given 60uakt, 1uact")
        code, words = await faucet("41uakt")
        assert (code, words) == (1, f"refused: {Person(9).address} may have 40uakt more of 100uakt")
    finally:
        node.terminate()
        await node.wait()
