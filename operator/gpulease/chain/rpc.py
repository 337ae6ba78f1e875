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
# CometBFT's mempool answers with an error instead of a code; these are the sdk's codes for the same.
_MEMPOOL_WORDS = (("already exists in cache", 19), ("mempool is full", 20), ("tx too large", 21))


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
    """CheckTx's answer. ``code`` 0 or 19 (already waiting) means: the node has the bytes.

    ``sole``: no other node was handed them in the same call, so none but this one can have kept them.
    """

    code: int
    codespace: str
    log: str
    hash: str
    sole: bool = True


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a transaction would do now: ``problem`` is the chain's text where it would fail."""

    problem: str | None
    gas_used: int = 0


def time_ns_of(text: str) -> int:
    """RFC 3339 with up to 9 fraction digits, as CometBFT writes it."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * NS_PER_S + int(fraction.ljust(9, "0")[:9] or "0")


class RpcEndpoint:
    """JSON-RPC calls to one URL on a shared session."""

    def __init__(self, url: str, session: aiohttp.ClientSession, *, timeout_s: float, chain_id: str = "") -> None:
        self.url = url.rstrip("/")
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._chain_id = chain_id

    async def call(self, method: str, **params: Any) -> Any:
        """The result; ``ChainPruned`` for heights the node no longer has, ``ChainError`` for other error answers."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            async with self._session.post(self.url, json=request, timeout=self._timeout) as response:
                answer = json.loads(await self._body(response, method))
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

    async def _body(self, response: aiohttp.ClientResponse, method: str) -> bytes:
        body = bytearray()
        async for part in response.content.iter_chunked(1 << 16):
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                response.close()
                raise ChainUnreachable(f"{self.url} sends more than {MAX_ANSWER_BYTES} bytes for {method}")
        return bytes(body)

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
            header = block["block"]["header"]
            if len(raw_txs) != len(outcomes) or not int(results["height"]) == int(header["height"]) == height:
                raise ValueError("results and transactions do not belong together")
            if self._chain_id and header["chain_id"] != self._chain_id:
                raise ValueError(f"it belongs to chain {header['chain_id']!r}")
            return Block(
                height=height,
                time_ns=time_ns_of(header["time"]),
                txs=tuple(_outcome(tx_hash(raw), outcome) for raw, outcome in zip(raw_txs, outcomes, strict=True)),
                end_events=raw_events(results.get("finalize_block_events")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ChainUnreachable(f"{self.url} sent block {height} in a form that cannot be read: {error}") from error

    async def broadcast(self, raw: bytes) -> Broadcast:
        """Hand bytes to the node. Bytes it has seen already count as accepted: code 19."""
        try:
            answer = await self.call("broadcast_tx_sync", tx=base64.b64encode(raw).decode())
        except ChainError as error:
            for words, code in _MEMPOOL_WORDS:
                if words in str(error).lower():
                    return Broadcast(code, "sdk", str(error), tx_hash(raw))
            raise
        try:
            return Broadcast(
                int(answer["code"]), str(answer.get("codespace", "")), str(answer.get("log", "")), str(answer["hash"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ChainUnreachable(f"{self.url} answered a broadcast unreadably: {_words(error)}") from error

    async def has_reached(self, height: int) -> bool:
        """Whether the node can show that block, or has pruned it: what it says of its own height is a claim only."""
        try:
            raw = await self.call("header", height=str(height))
        except ChainPruned:
            return True
        except ChainError:
            return False
        try:
            header = raw["header"]
            return int(header["height"]) == height and self._chain_id in ("", header["chain_id"])
        except (KeyError, TypeError, ValueError):
            return False

    async def find_tx(self, hash_: str) -> tuple[int, TxOutcome] | None:
        """Height and outcome of an included transaction; None is the node's positive "not found"."""
        try:
            raw = await self.call("tx", hash=base64.b64encode(bytes.fromhex(hash_)).decode(), prove=False)
        except ChainError as error:
            if "not found" in str(error):
                return None
            raise
        try:
            outcome = _outcome(str(raw["hash"]), raw["tx_result"])
            if outcome.hash != hash_:
                raise ValueError("it is another transaction")
            return int(raw["height"]), outcome
        except (KeyError, TypeError, ValueError) as error:
            raise ChainUnreachable(f"{self.url} sent a transaction that cannot be read: {_words(error)}") from error

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


def _outcome(hash_: str, raw: Any) -> TxOutcome:
    return TxOutcome(
        hash=hash_,
        code=int(raw["code"]),
        codespace=str(raw.get("codespace", "")),
        log=str(raw.get("log", "")),
        gas_used=int(raw.get("gas_used") or 0),
        events=raw_events(raw.get("events")),
    )


def _ws_timeout() -> Any:
    return aiohttp.ClientWSTimeout(ws_close=5.0)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
