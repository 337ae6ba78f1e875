"""CometBFT's JSON-RPC: POST and GET over HTTP, and the websocket, in its shapes (0.38).

Block and application hashes are digests of our own: they chain and are stable, but are not CometBFT's merkle roots.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from gpulease.devnet import errors
from gpulease.devnet.chain import BlockResult, Devnet, TxResult, tx_hash
from gpulease.devnet.context import Event
from gpulease.devnet.render import timestamp_text
from gpulease.devnet.search import matching_txs
from gpulease.units import NS_PER_S

VERSION = "0.38.19"
INTERNAL, METHOD_NOT_FOUND, INVALID_PARAMS = -32603, -32601, -32602


class RpcError(Exception):
    """A JSON-RPC error object."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.body: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            self.body["data"] = data


def internal(data: str) -> RpcError:
    return RpcError(INTERNAL, "Internal error", data)


def digest(*parts: object) -> str:
    return hashlib.sha256("/".join(str(p) for p in parts).encode()).hexdigest().upper()


def time_text(time_ns: int) -> str:
    return timestamp_text(*divmod(time_ns, NS_PER_S))


def event_json(event: Event) -> dict[str, Any]:
    return {
        "type": event.type,
        "attributes": [{"key": k, "value": v, "index": True} for k, v in event.attributes],
    }


def tx_result_json(result: TxResult) -> dict[str, Any]:
    return {
        "code": result.code,
        "data": base64.b64encode(result.data).decode() if result.data else None,
        "log": result.log,
        "info": "",
        "gas_wanted": str(result.gas_wanted),
        "gas_used": str(result.gas_used),
        "events": [event_json(e) for e in result.events],
        "codespace": result.codespace,
    }


class Rpc:
    """The method table over one chain. ``broadcast`` hands bytes to the node; it may be replaced by a fault proxy."""

    def __init__(self, chain: Devnet) -> None:
        self.chain = chain
        self._methods: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "health": lambda _: {},
            "status": self.status,
            "net_info": lambda _: {"listening": True, "listeners": [], "n_peers": "0", "peers": []},
            "abci_info": self.abci_info,
            "abci_query": self.abci_query,
            "block": self.block,
            "header": lambda p: {"header": self.header_json(self._block(p))},
            "block_results": self.block_results,
            "blockchain": self.blockchain,
            "commit": self.commit,
            "validators": self.validators,
            "consensus_params": self.consensus_params,
            "tx": self.tx,
            "tx_search": self.tx_search,
            "broadcast_tx_sync": self.broadcast_sync,
            "broadcast_tx_async": self.broadcast_sync,
            "unconfirmed_txs": self.unconfirmed,
            "num_unconfirmed_txs": self.unconfirmed,
        }

    def call(self, method: str, params: Mapping[str, Any]) -> Any:
        """The method's result; ``RpcError`` otherwise."""
        handler = self._methods.get(method)
        if handler is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        return handler(params)

    def answer(self, request: Any) -> dict[str, Any]:
        """One JSON-RPC request object to its response object."""
        if not isinstance(request, dict) or "method" not in request:
            return {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "Invalid request"}}
        base = {"jsonrpc": "2.0", "id": request.get("id", -1)}
        params = request.get("params") or {}
        try:
            return {**base, "result": self.call(str(request["method"]), params if isinstance(params, dict) else {})}
        except RpcError as error:
            return {**base, "error": error.body}

    # --- node --------------------------------------------------------------------------------------------------

    def _node_info(self) -> dict[str, Any]:
        return {
            "protocol_version": {"p2p": "8", "block": "11", "app": "0"},
            "id": digest(self.chain.chain_id)[:40].lower(),
            "listen_addr": "tcp://127.0.0.1:26656",
            "network": self.chain.chain_id,
            "version": VERSION,
            "channels": "40202122233038606100",
            "moniker": "devnet",
            "other": {"tx_index": "on", "rpc_address": "tcp://127.0.0.1:26657"},
        }

    def status(self, _: Mapping[str, Any]) -> dict[str, Any]:
        chain = self.chain
        first = max(chain.earliest_height, 1)
        return {
            "node_info": self._node_info(),
            "sync_info": {
                "latest_block_hash": self.block_hash(chain.height),
                "latest_app_hash": self.app_hash(chain.height),
                "latest_block_height": str(chain.height),
                "latest_block_time": time_text(chain.time_ns),
                "earliest_block_hash": self.block_hash(first),
                "earliest_app_hash": self.app_hash(first),
                "earliest_block_height": str(first),
                "earliest_block_time": time_text(self._time_of(first)),
                "catching_up": False,
            },
            "validator_info": {
                "address": digest(chain.chain_id, "validator")[:40],
                "pub_key": {"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(b"\0" * 32).decode()},
                "voting_power": "1",
            },
        }

    def _time_of(self, height: int) -> int:
        block = self.chain.block(height)
        return block.time_ns if block is not None else self.chain.time_ns

    def block_hash(self, height: int) -> str:
        return digest(self.chain.chain_id, "block", height, self._time_of(height))

    def app_hash(self, height: int) -> str:
        return digest(self.chain.chain_id, "app", height)

    def abci_info(self, _: Mapping[str, Any]) -> dict[str, Any]:
        app_hash = base64.b64encode(bytes.fromhex(self.app_hash(self.chain.height))).decode()
        return {
            "response": {
                "data": "akash",
                "version": "2.1.0",
                "last_block_height": str(self.chain.height),
                "last_block_app_hash": app_hash,
            }
        }

    def abci_query(self, params: Mapping[str, Any]) -> dict[str, Any]:
        path = str(params.get("path", ""))
        try:
            data = bytes.fromhex(str(params.get("data", "")).removeprefix("0x"))
        except ValueError:
            raise RpcError(INVALID_PARAMS, "Invalid params", "data is not hexadecimal") from None
        height = int(params.get("height") or 0)
        base = {"info": "", "index": "0", "key": None, "proofOps": None, "height": str(self.chain.height)}
        try:
            value = self.chain.query(path, data, height=height or None)
        except errors.QueryError as error:
            return {"response": {**base, "code": error.code, "log": error.message, "value": None, "codespace": "sdk"}}
        encoded = base64.b64encode(value).decode()
        return {"response": {**base, "code": 0, "log": "", "value": encoded, "codespace": ""}}

    # --- blocks ------------------------------------------------------------------------------------------------

    def _block(self, params: Mapping[str, Any]) -> BlockResult:
        chain = self.chain
        raw = params.get("height")
        try:
            height = int(raw) if raw not in (None, "") else chain.height
        except (TypeError, ValueError):
            raise RpcError(INVALID_PARAMS, "Invalid params", f"error converting json params: height {raw!r}") from None
        if height <= 0:
            raise internal("height must be greater than 0, but got " + str(height))
        if height > chain.height:
            words = f"height {height} must be less than or equal to the current blockchain height {chain.height}"
            raise internal(words)
        block = chain.block(height)
        if block is None:
            raise internal(f"height {height} is not available, lowest height is {chain.earliest_height}")
        return block

    def header_json(self, block: BlockResult) -> dict[str, Any]:
        height = block.height
        chain_id = self.chain.chain_id
        return {
            "version": {"block": "11"},
            "chain_id": chain_id,
            "height": str(height),
            "time": time_text(block.time_ns),
            "last_block_id": self._block_id(height - 1),
            "last_commit_hash": digest(chain_id, "commit", height),
            "data_hash": digest(*(tx_hash(raw).hex() for raw, _ in block.txs)),
            "validators_hash": digest(chain_id, "validators"),
            "next_validators_hash": digest(chain_id, "validators"),
            "consensus_hash": digest(chain_id, "consensus"),
            "app_hash": self.app_hash(height),
            "last_results_hash": digest(chain_id, "results", height),
            "evidence_hash": digest("evidence"),
            "proposer_address": digest(chain_id, "validator")[:40],
        }

    def _block_id(self, height: int) -> dict[str, Any]:
        return {
            "hash": self.block_hash(height),
            "parts": {"total": 1, "hash": digest(self.chain.chain_id, "parts", height)},
        }

    def block_json(self, block: BlockResult) -> dict[str, Any]:
        return {
            "header": self.header_json(block),
            "data": {"txs": [base64.b64encode(raw).decode() for raw, _ in block.txs]},
            "evidence": {"evidence": []},
            "last_commit": {
                "height": str(block.height - 1),
                "round": 0,
                "block_id": self._block_id(block.height - 1),
                "signatures": [],
            },
        }

    def block(self, params: Mapping[str, Any]) -> dict[str, Any]:
        block = self._block(params)
        return {"block_id": self._block_id(block.height), "block": self.block_json(block)}

    def block_results(self, params: Mapping[str, Any]) -> dict[str, Any]:
        block = self._block(params)
        return {
            "height": str(block.height),
            "txs_results": [tx_result_json(result) for _, result in block.txs] or None,
            "finalize_block_events": [event_json(e) for e in block.end_events],
            "validator_updates": None,
            "consensus_param_updates": None,
            "app_hash": base64.b64encode(bytes.fromhex(self.app_hash(block.height))).decode(),
        }

    def blockchain(self, params: Mapping[str, Any]) -> dict[str, Any]:
        top = min(int(params.get("maxHeight") or self.chain.height), self.chain.height)
        low = max(int(params.get("minHeight") or 1), top - 19, self.chain.earliest_height)
        metas = []
        for height in range(top, low - 1, -1):
            block = self.chain.block(height)
            if block is not None:
                metas.append(
                    {
                        "block_id": self._block_id(height),
                        "block_size": str(sum(len(raw) for raw, _ in block.txs)),
                        "header": self.header_json(block),
                        "num_txs": str(len(block.txs)),
                    }
                )
        return {"last_height": str(self.chain.height), "block_metas": metas}

    def commit(self, params: Mapping[str, Any]) -> dict[str, Any]:
        block = self._block(params)
        commit = {"height": str(block.height), "round": 0, "block_id": self._block_id(block.height), "signatures": []}
        return {"signed_header": {"header": self.header_json(block), "commit": commit}, "canonical": True}

    def validators(self, params: Mapping[str, Any]) -> dict[str, Any]:
        block = self._block(params)
        entry = {
            "address": digest(self.chain.chain_id, "validator")[:40],
            "pub_key": {"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(b"\0" * 32).decode()},
            "voting_power": "1",
            "proposer_priority": "0",
        }
        return {"block_height": str(block.height), "validators": [entry], "count": "1", "total": "1"}

    def consensus_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        block = self._block(params)
        return {
            "block_height": str(block.height),
            "consensus_params": {
                "block": {"max_bytes": "22020096", "max_gas": "-1"},
                "evidence": {
                    "max_age_num_blocks": "100000",
                    "max_age_duration": "172800000000000",
                    "max_bytes": "1048576",
                },
                "validator": {"pub_key_types": ["ed25519"]},
                "version": {"app": "0"},
                "abci": {"vote_extensions_enable_height": "0"},
            },
        }

    # --- transactions ------------------------------------------------------------------------------------------

    def tx_json(self, block: BlockResult, index: int) -> dict[str, Any]:
        raw, result = block.txs[index]
        return {
            "hash": tx_hash(raw).hex().upper(),
            "height": str(block.height),
            "index": index,
            "tx_result": tx_result_json(result),
            "tx": base64.b64encode(raw).decode(),
        }

    def tx(self, params: Mapping[str, Any]) -> dict[str, Any]:
        raw = str(params.get("hash", ""))
        try:
            wanted = bytes.fromhex(raw[2:]) if raw.startswith("0x") else base64.b64decode(raw, validate=True)
        except ValueError:
            raise RpcError(INVALID_PARAMS, "Invalid params", "hash is neither base64 nor 0x hexadecimal") from None
        found = self.chain.tx(wanted)
        if found is None:
            raise internal(f"tx ({wanted.hex().upper()}) not found")
        return self.tx_json(*found)

    def tx_search(self, params: Mapping[str, Any]) -> dict[str, Any]:
        try:
            places = matching_txs(self.chain, str(params.get("query", "")))
        except ValueError as error:
            raise internal(f"failed to parse query: {error}") from None
        if str(params.get("order_by", "")) == "desc":
            places.reverse()
        page, size = max(int(params.get("page") or 1), 1), min(max(int(params.get("per_page") or 30), 1), 100)
        chosen = places[(page - 1) * size : page * size]
        return {"txs": [self.tx_json(*place) for place in chosen], "total_count": str(len(places))}

    def broadcast_sync(self, params: Mapping[str, Any]) -> dict[str, Any]:
        try:
            raw = base64.b64decode(str(params.get("tx", "")), validate=True)
        except ValueError:
            raise RpcError(INVALID_PARAMS, "Invalid params", "tx is not base64") from None
        result = self.chain.add_to_mempool(raw)
        if result.code == 19 and result.log == "tx already in mempool":
            raise internal("tx already exists in cache")
        return {
            "code": result.code,
            "data": "",
            "log": result.log,
            "codespace": result.codespace,
            "hash": tx_hash(raw).hex().upper(),
        }

    def unconfirmed(self, _: Mapping[str, Any]) -> dict[str, Any]:
        waiting = list(self.chain.mempool.values())
        size = str(sum(len(raw) for raw in waiting))
        txs = [base64.b64encode(raw).decode() for raw in waiting[:30]]
        return {"n_txs": str(len(txs)), "total": str(len(waiting)), "total_bytes": size, "txs": txs}


def uri_params(query: Mapping[str, str]) -> dict[str, Any]:
    """Parameters of a GET: JSON values, ``0x`` bytes as base64, quotes around text removed."""
    found: dict[str, Any] = {}
    for key, value in query.items():
        if value.startswith('"') and value.endswith('"') and len(value) > 1:
            found[key] = json.loads(value)
        elif value.startswith("0x") and key in ("tx", "hash"):
            found[key] = base64.b64encode(bytes.fromhex(value[2:])).decode()
        else:
            found[key] = value
    return found
