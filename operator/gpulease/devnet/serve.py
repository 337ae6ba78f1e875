"""The chain as a node: a block ticker and the three servers, on one event loop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from aiohttp import web

from gpulease.devnet import ante, errors, genesis, grpc_server, node_queries, routes, search
from gpulease.devnet.chain import BlockResult, Devnet, TxResult, tx_hash
from gpulease.devnet.faucet import FAUCET_LIMIT, Faucet, FaucetRefused
from gpulease.devnet.render import to_json
from gpulease.devnet.rpc import Rpc, RpcError, event_json, named_params, tx_result_json, uri_params
from gpulease.units import NS_PER_S, Coin

from cosmos.base.abci.v1beta1 import abci_pb2  # noqa: F401  (its message is rendered by name)

log = structlog.get_logger(__name__)
MAX_SUBSCRIPTIONS = 5
COMMIT_TIMEOUT_S = 30.0
_UNKNOWN_QUERY = "subscription not found"


@dataclass(frozen=True, slots=True)
class Endpoints:
    rpc: str
    grpc: str
    rest: str


class _Subscriber:
    """One websocket's subscriptions; a slow reader is dropped rather than waited for."""

    def __init__(self, ws: web.WebSocketResponse) -> None:
        self.ws = ws
        self.queries: dict[str, tuple[Any, list[search.Condition]]] = {}
        self.queue: asyncio.Queue[str] = asyncio.Queue(maxsize=1000)

    def offer(self, text: str) -> None:
        try:
            self.queue.put_nowait(text)
        except asyncio.QueueFull:
            self.queries.clear()


def _without_defaults(result: dict[str, Any]) -> dict[str, Any]:
    """Go leaves out what is empty where the websocket carries a result."""
    return {key: value for key, value in result.items() if value not in (None, "", 0, "0", [])}


class DevnetServer:
    """Serves one :class:`Devnet`. Port 0 means: the system chooses, see :attr:`endpoints`."""

    def __init__(
        self,
        chain: Devnet,
        *,
        host: str = "127.0.0.1",
        rpc_port: int = 0,
        grpc_port: int = 0,
        rest_port: int = 0,
        block_time_ms: int = 1000,
        home: Path | None = None,
        faucet_limit: int = FAUCET_LIMIT,
    ) -> None:
        self.chain = chain
        self.rpc = Rpc(chain)
        self.faucet = Faucet(chain, faucet_limit)
        self._host = host
        self._ports = (rpc_port, grpc_port, rest_port)
        self._block_time_s = block_time_ms / 1000
        self._home = home
        self._subscribers: set[_Subscriber] = set()
        self._waiters: dict[bytes, asyncio.Future[tuple[BlockResult, int]]] = {}
        self._runners: list[web.AppRunner] = []
        self._grpc: Any = None
        self._ticker: asyncio.Task[None] | None = None
        self.endpoints = Endpoints("", "", "")
        self.paused = False

    async def __aenter__(self) -> DevnetServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        rpc_port = await self._listen(self._rpc_app(), self._ports[0])
        self._grpc = grpc_server.build(self.chain, self.rpc.node)
        grpc_port = self._grpc.add_insecure_port(f"{self._host}:{self._ports[1]}")
        await self._grpc.start()
        rest_port = await self._listen(self._rest_app(), self._ports[2])
        self.endpoints = Endpoints(
            f"http://{self._host}:{rpc_port}", f"{self._host}:{grpc_port}", f"http://{self._host}:{rest_port}"
        )
        if self._block_time_s > 0:
            self._ticker = asyncio.create_task(self._tick(), name="devnet-blocks")

    async def _listen(self, app: web.Application, port: int) -> int:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, self._host, port)
        await site.start()
        return int(runner.addresses[0][1])

    async def stop(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
        for subscriber in list(self._subscribers):
            await subscriber.ws.close()
        if self._grpc is not None:
            await self._grpc.stop(0.2)
        for runner in self._runners:
            await runner.cleanup()
        self.save()

    def save(self) -> None:
        """Write the chain to ``home``, whole or not at all."""
        if self._home is None:
            return
        part = self._home / "chain.part"
        part.write_bytes(self.chain.snapshot())
        part.replace(self._home / "chain.bin")

    async def _tick(self) -> None:
        """Blocks at a steady pace: a late one does not delay the next."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._block_time_s
        while True:
            await asyncio.sleep(max(due - loop.time(), 0))
            due = max(due + self._block_time_s, loop.time())
            if not self.paused:
                self.make_block()

    def make_block(self, *, time_ns: int | None = None) -> BlockResult:
        """One block of what waits, now."""
        now_ns = time.time_ns() if time_ns is None else time_ns
        block = self.chain.apply_block(list(self.chain.mempool.values()), time_ns=max(now_ns, self.chain.time_ns + 1))
        self._publish(block)
        if block.height % 100 == 0:
            self.save()
        return block

    # --- events ------------------------------------------------------------------------------------------------

    def _publish(self, block: BlockResult) -> None:
        for index, (raw, _) in enumerate(block.txs):
            waiter = self._waiters.pop(tx_hash(raw), None)
            if waiter is not None and not waiter.done():
                waiter.set_result((block, index))
        for subscriber in self._subscribers:
            for query, (id_, conditions) in subscriber.queries.items():
                for data, events in self._matching(block, conditions):
                    result = {"query": query, "data": data, "events": events}
                    subscriber.offer(json.dumps({"jsonrpc": "2.0", "id": id_, "result": result}))

    def _matching(self, block: BlockResult, conditions: list[search.Condition]) -> list[tuple[Any, Any]]:
        kind = next((value for key, op, value in conditions if key == "tm.event" and op == "="), None)
        if kind == "Tx":
            return self._matching_txs(block, conditions)
        value = self._block_event(kind, block)
        facts = search.block_facts(block, kind or "")
        if value is None or not search.holds(facts, conditions):
            return []
        shown = {"tm.event": [kind]} if kind == "NewBlockHeader" else facts
        return [({"type": f"tendermint/event/{kind}", "value": value}, shown)]

    def _block_event(self, kind: str | None, block: BlockResult) -> dict[str, Any] | None:
        if kind == "NewBlockHeader":
            return {"header": self.rpc.header_json(block)}
        if kind == "NewBlock":
            results = self.rpc.block_results({"height": block.height})
            finalized = {
                "events": results["finalize_block_events"],
                "tx_results": [_without_defaults(r) for r in results["txs_results"] or ()],
                "consensus_param_updates": results["consensus_param_updates"],
                "app_hash": results["app_hash"],
            }
            return {
                "block": self.rpc.block_json(block),
                "block_id": self.rpc.block_id(block.height),
                "result_finalize_block": {k: v for k, v in finalized.items() if v},
            }
        if kind == "NewBlockEvents":
            events = [event_json(e) for e in block.end_events]
            return {"height": str(block.height), "events": events, "num_txs": str(len(block.txs))}
        return None

    @staticmethod
    def _matching_txs(block: BlockResult, conditions: list[search.Condition]) -> list[tuple[Any, Any]]:
        found = []
        for index, (raw, result) in enumerate(block.txs):
            facts = search.tx_facts(block, index)
            if not search.holds(facts, conditions):
                continue
            tx: dict[str, Any] = {"height": str(block.height), **({"index": index} if index else {})}
            tx |= {"tx": base64.b64encode(raw).decode(), "result": _without_defaults(tx_result_json(result))}
            found.append(({"type": "tendermint/event/Tx", "value": {"TxResult": tx}}, facts))
        return found

    # --- RPC ---------------------------------------------------------------------------------------------------

    def _rpc_app(self) -> web.Application:
        app = web.Application(client_max_size=2 * 1024 * 1024)
        app.router.add_get("/websocket", self._websocket)
        app.router.add_post("/", self._rpc_post)
        app.router.add_get("/{method}", self._rpc_get)
        return app

    async def _rpc_post(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
        except ValueError:
            error = {"code": -32700, "message": "Parse error. Invalid JSON"}
            return web.json_response({"jsonrpc": "2.0", "id": None, "error": error}, status=500)
        if isinstance(body, list):
            return web.json_response([await self._rpc_answer(entry) for entry in body[:100]])
        return web.json_response(await self._rpc_answer(body))

    async def _rpc_get(self, request: web.Request) -> web.Response:
        call = {"jsonrpc": "2.0", "id": -1, "method": request.match_info["method"]}
        answer = await self._rpc_answer({**call, "params": uri_params(request.query)})
        return web.json_response(answer, status=500 if "error" in answer else 200)

    async def _rpc_answer(self, request: Any) -> dict[str, Any]:
        if isinstance(request, dict) and request.get("method") == "broadcast_tx_commit":
            base = {"jsonrpc": "2.0", "id": request.get("id", -1)}
            try:
                return {
                    **base,
                    "result": await self._commit(named_params("broadcast_tx_commit", request.get("params"))),
                }
            except RpcError as error:
                return {**base, "error": error.body}
        return self.rpc.answer(request)

    async def _commit(self, params: Mapping[str, Any]) -> dict[str, Any]:
        checked = self.rpc.broadcast_sync(params)
        if checked["code"] != 0:
            never_run = tx_result_json(TxResult(0, "", "", b"", 0, 0, ()))
            return {"check_tx": checked, "tx_result": never_run, "hash": checked["hash"], "height": "0"}
        key = bytes.fromhex(checked["hash"])
        future: asyncio.Future[tuple[BlockResult, int]] = asyncio.get_running_loop().create_future()
        self._waiters[key] = future
        try:
            block, index = await asyncio.wait_for(future, COMMIT_TIMEOUT_S)
        except TimeoutError:
            self._waiters.pop(key, None)
            raise RpcError(-32603, "Internal error", "timed out waiting for tx to be included in a block") from None
        return {
            "check_tx": checked,
            "tx_result": tx_result_json(block.txs[index][1]),
            "hash": checked["hash"],
            "height": str(block.height),
        }

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(heartbeat=30.0, max_msg_size=1024 * 1024)
        await ws.prepare(request)
        subscriber = _Subscriber(ws)
        self._subscribers.add(subscriber)
        writer = asyncio.create_task(self._drain(subscriber))
        try:
            async for message in ws:
                if message.type is aiohttp.WSMsgType.TEXT:
                    subscriber.offer(json.dumps(await self._websocket_answer(subscriber, message.data)))
        finally:
            writer.cancel()
            self._subscribers.discard(subscriber)
        return ws

    async def _drain(self, subscriber: _Subscriber) -> None:
        while True:
            text = await subscriber.queue.get()
            with contextlib.suppress(ConnectionError, RuntimeError):
                await subscriber.ws.send_str(text)

    async def _websocket_answer(self, subscriber: _Subscriber, text: str) -> dict[str, Any]:
        try:
            request = json.loads(text)
        except ValueError:
            error = {"code": -32700, "message": "Parse error. Invalid JSON"}
            return {"jsonrpc": "2.0", "id": None, "error": error}
        if not isinstance(request, dict):
            return self.rpc.answer(request)
        base = {"jsonrpc": "2.0", "id": request.get("id", -1)}
        query = str((request.get("params") or {}).get("query", ""))
        match request.get("method"):
            case "subscribe":
                problem = self._subscribe(subscriber, request.get("id", -1), query)
                if problem is not None:
                    return {**base, "error": {"code": -32603, "message": "Internal error", "data": problem}}
                return {**base, "result": {}}
            case "unsubscribe":
                if subscriber.queries.pop(query, None) is None:
                    return {**base, "error": {"code": -32603, "message": "Internal error", "data": _UNKNOWN_QUERY}}
                return {**base, "result": {}}
            case "unsubscribe_all":
                subscriber.queries.clear()
                return {**base, "result": {}}
        return await self._rpc_answer(request)

    @staticmethod
    def _subscribe(subscriber: _Subscriber, id_: Any, query: str) -> str | None:
        try:
            conditions = search.parse(query)
        except ValueError as error:
            return f"failed to parse query: {error}"
        if query in subscriber.queries:
            return "already subscribed"
        if len(subscriber.queries) >= MAX_SUBSCRIPTIONS:
            return f"max_subscriptions_per_client {MAX_SUBSCRIPTIONS} reached"
        subscriber.queries[query] = (id_, conditions)
        return None

    # --- REST --------------------------------------------------------------------------------------------------

    def _rest_app(self) -> web.Application:
        app = web.Application(client_max_size=2 * 1024 * 1024)
        app.router.add_post("/faucet", self._faucet)
        app.router.add_post("/cosmos/tx/v1beta1/txs", self._rest_broadcast)
        app.router.add_post("/cosmos/tx/v1beta1/simulate", self._rest_simulate)
        app.router.add_get("/{path:.*}", self._rest_query)
        return app

    def _json(self, body: Any, status: int = 200, height: int | None = None) -> web.Response:
        headers = {"Grpc-Metadata-X-Cosmos-Block-Height": str(height or self.chain.height)}
        return web.json_response(body, status=status, headers=headers)

    async def _rest_query(self, request: web.Request) -> web.Response:
        asked = request.headers.get(grpc_server.HEIGHT_KEY, "")
        height = int(asked) if asked.isdecimal() else None
        status, body = routes.node_answer(self.rpc.node, request.path, request.query.items(), height=height)
        return self._json(body, status, height)

    async def _rest_broadcast(self, request: web.Request) -> web.Response:
        return await self._rest_tx_call(request, f"/{node_queries.TX}/BroadcastTx")

    async def _rest_simulate(self, request: web.Request) -> web.Response:
        return await self._rest_tx_call(request, f"/{node_queries.TX}/Simulate")

    async def _rest_tx_call(self, request: web.Request, method: str) -> web.Response:
        try:
            body = await request.json()
            raw = base64.b64decode(str(body["tx_bytes"]), validate=True)
        except (ValueError, KeyError, TypeError):
            return self._json(routes.failure(3, "the body must be JSON with tx_bytes in base64"), 400)
        asked, answered = self.rpc.node.types[method]
        try:
            found = self.rpc.node.methods[method](asked(tx_bytes=raw).SerializeToString())
        except errors.QueryError as error:
            return self._json(routes.failure(error.code, error.message), routes.http_status(error.code))
        return self._json(to_json(answered.FromString(found)))

    async def _faucet(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
            coins = [Coin.parse(str(text)) for text in body["coins"]]
            address = str(body["address"])
        except (ValueError, KeyError, TypeError) as error:
            return self._json(routes.failure(3, f'send {{"address": …, "coins": ["5uakt"]}}: {error}'), 400)
        try:
            self.faucet.give(address, coins)
        except FaucetRefused as error:
            return self._json(routes.failure(error.code, str(error)), error.status)
        return self._json({"address": address, "coins": [str(c) for c in coins]})


def open_chain(home: Path, *, chain_id: str, accounts: dict[str, list[Coin]]) -> Devnet:
    """The chain kept in ``home``, or a new one with a genesis of now."""
    saved = home / "chain.bin"
    if saved.exists():
        chain = Devnet(chain_id=chain_id, params={})
        chain.restore(saved.read_bytes())
        if chain.chain_id != chain_id:
            raise errors.QueryError(
                errors.INVALID_ARGUMENT, f"{home} holds chain {chain.chain_id}; choose another --home or --chain-id"
            )
        return chain
    raw = genesis.default(chain_id=chain_id, accounts=accounts, now_ns=time.time_ns() - NS_PER_S)
    (home / "genesis.json").write_text(json.dumps(raw, indent=1))
    return Devnet.from_genesis(raw)


__all__ = ["DevnetServer", "Endpoints", "ante", "open_chain"]
