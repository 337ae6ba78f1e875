"""One CometBFT endpoint over JSON-RPC: every call has a deadline, and every kind of silence is ``ChainUnreachable``."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp

from gpulease.chain.events import Block, TxOutcome, raw_events
from gpulease.chain.tx import tx_hash
from gpulease.errors import ChainError, ChainPruned, ChainUnreachable
from gpulease.units import NS_PER_S

MAX_ANSWER_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """``/status`` of one node."""

    chain_id: str
    height: int
    earliest_height: int
    time_ns: int
    catching_up: bool


@dataclass(frozen=True, slots=True)
class Broadcast:
    """CheckTx's answer. ``code`` 0 or 19 (already waiting) means: the node has the bytes."""

    code: int
    codespace: str
    log: str
    hash: str


def time_ns_of(text: str) -> int:
    """RFC 3339 with up to 9 fraction digits, as CometBFT writes it."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * NS_PER_S + int(fraction.ljust(9, "0")[:9] or "0")


class RpcEndpoint:
    """JSON-RPC calls to one URL on a shared session."""

    def __init__(self, url: str, session: aiohttp.ClientSession, *, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def call(self, method: str, **params: Any) -> Any:
        """The result; ``ChainPruned`` for heights the node no longer has, ``ChainError`` for other error answers."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            async with self._session.post(self.url, json=request, timeout=self._timeout) as response:
                if (response.content_length or 0) > MAX_ANSWER_BYTES:
                    raise ChainUnreachable(f"{self.url} sends more than {MAX_ANSWER_BYTES} bytes for {method}")
                answer = json.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            raise ChainUnreachable(f"{self.url} did not answer {method}: {_words(error)}") from error
        if not isinstance(answer, dict):
            raise ChainUnreachable(f"{self.url} answered {method} with something that is no JSON-RPC object")
        if "error" in answer:
            error_body = answer["error"]
            words = str(error_body.get("data") or error_body.get("message", ""))
            if "lowest height" in words or "is not available" in words:
                raise ChainPruned(f"{self.url}: {words}")
            raise ChainError(words)
        if "result" not in answer:
            raise ChainUnreachable(f"{self.url} answered {method} without a result")
        return answer["result"]

    async def status(self) -> NodeStatus:
        raw = await self.call("status")
        try:
            sync = raw["sync_info"]
            return NodeStatus(
                chain_id=str(raw["node_info"]["network"]),
                height=int(sync["latest_block_height"]),
                earliest_height=int(sync["earliest_block_height"]),
                time_ns=time_ns_of(sync["latest_block_time"]),
                catching_up=bool(sync["catching_up"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ChainUnreachable(f"{self.url} sent a status that cannot be read: {_words(error)}") from error

    async def block(self, height: int) -> Block:
        """Results and raw transactions of one block, joined."""
        results, block = await asyncio.gather(
            self.call("block_results", height=str(height)), self.call("block", height=str(height))
        )
        try:
            raw_txs = [base64.b64decode(text) for text in block["block"]["data"]["txs"] or ()]
            outcomes = results["txs_results"] or []
            if len(raw_txs) != len(outcomes) or int(results["height"]) != height:
                raise ValueError("results and transactions do not belong together")
            return Block(
                height=height,
                time_ns=time_ns_of(block["block"]["header"]["time"]),
                txs=tuple(
                    TxOutcome(
                        hash=tx_hash(raw),
                        code=int(outcome["code"]),
                        codespace=str(outcome.get("codespace", "")),
                        log=str(outcome.get("log", "")),
                        gas_used=int(outcome.get("gas_used") or 0),
                        events=raw_events(outcome.get("events")),
                    )
                    for raw, outcome in zip(raw_txs, outcomes, strict=True)
                ),
                end_events=raw_events(results.get("finalize_block_events")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ChainUnreachable(f"{self.url} sent block {height} in a form that cannot be read: {error}") from error

    async def broadcast(self, raw: bytes) -> Broadcast:
        """Hand bytes to the node. Bytes it has seen already count as accepted: code 19."""
        try:
            answer = await self.call("broadcast_tx_sync", tx=base64.b64encode(raw).decode())
        except ChainError as error:
            if "already exists in cache" in str(error):
                return Broadcast(19, "sdk", str(error), tx_hash(raw))
            raise
        return Broadcast(
            int(answer["code"]), str(answer.get("codespace", "")), str(answer.get("log", "")), str(answer["hash"])
        )

    async def find_tx(self, hash_: str) -> tuple[int, TxOutcome] | None:
        """Height and outcome of an included transaction; None is the node's positive "not found"."""
        try:
            raw = await self.call("tx", hash=base64.b64encode(bytes.fromhex(hash_)).decode(), prove=False)
        except ChainError as error:
            if "not found" in str(error):
                return None
            raise
        result = raw["tx_result"]
        outcome = TxOutcome(
            hash=str(raw["hash"]),
            code=int(result["code"]),
            codespace=str(result.get("codespace", "")),
            log=str(result.get("log", "")),
            gas_used=int(result.get("gas_used") or 0),
            events=raw_events(result.get("events")),
        )
        return int(raw["height"]), outcome

    async def hints(self, wake: asyncio.Event) -> None:
        """Set ``wake`` at each new block heard of on the websocket; returns when the socket ends."""
        url = "ws" + self.url.removeprefix("http") + "/websocket"
        subscribe = {"jsonrpc": "2.0", "id": 0, "method": "subscribe", "params": {"query": "tm.event='NewBlockHeader'"}}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with self._session.ws_connect(url, heartbeat=15.0, timeout=_ws_timeout()) as ws:
                await ws.send_json(subscribe)
                async for message in ws:
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        break
                    wake.set()


def _ws_timeout() -> Any:
    return aiohttp.ClientWSTimeout(ws_close=5.0)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
