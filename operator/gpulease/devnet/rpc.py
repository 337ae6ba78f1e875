"""CometBFT's JSON-RPC: POST and GET over HTTP, and the websocket, in its shapes (0.38).

Data hashes are CometBFT's. Block, commit and application hashes and the validator's signatures are digests of our own:
they chain and are stable, but a light client would not accept them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gpulease.devnet import addresses, errors
from gpulease.devnet.chain import BlockResult, Devnet, TxResult, tx_hash
from gpulease.devnet.context import Event
from gpulease.devnet.node_queries import NODE_VERSION, NodeQueries, versions
from gpulease.devnet.render import timestamp_text, to_json
from gpulease.devnet.search import matching_txs
from gpulease.units import NS_PER_S

VERSION = "0.38.19"
CONSENSUS_HASH = "048091BC7DDC283F77BFBF91D73C44DA58C3DF8A9CBC867405D8B7F3DAADA22F"
MAX_SEARCH_PAGE, SEARCH_PAGE = 100, 30
_SHOWN_WAITING = 30
MAX_METAS = 20
_SDK_CODE_OF_GRPC = {errors.NOT_FOUND: (22, "key not found")}
_INVALID_REQUEST = (18, "invalid request")
_GRPC_NAMES = {2: "Unknown", 3: "InvalidArgument", 5: "NotFound", 12: "Unimplemented", 13: "Internal"}
_POSITIONS: dict[str, tuple[str, ...]] = {
    "abci_query": ("path", "data", "height", "prove"),
    "block": ("height",),
    "block_results": ("height",),
    "blockchain": ("minHeight", "maxHeight"),
    "commit": ("height",),
    "header": ("height",),
    "validators": ("height", "page", "per_page"),
    "consensus_params": ("height",),
    "tx": ("hash", "prove"),
    "tx_search": ("query", "prove", "page", "per_page", "order_by"),
    "broadcast_tx_sync": ("tx",),
    "broadcast_tx_async": ("tx",),
    "broadcast_tx_commit": ("tx",),
    "unconfirmed_txs": ("limit",),
}
_BLOCK_PARAMS: dict[str, Any] = {
    "block": {"max_bytes": "22020096", "max_gas": "-1"},
    "evidence": {"max_age_num_blocks": "100000", "max_age_duration": "172800000000000", "max_bytes": "1048576"},
    "validator": {"pub_key_types": ["ed25519"]},
}
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


def merkle(leaves: Sequence[bytes]) -> bytes:
    """The root of RFC 6962's tree, which CometBFT's data hash is."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + merkle(leaves[:split]) + merkle(leaves[split:])).digest()


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
        self.node = NodeQueries(self)
        key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(chain.chain_id.encode()).digest())
        self.validator_pubkey = key.public_key().public_bytes_raw()
        raw = hashlib.sha256(self.validator_pubkey).digest()[:20]
        self.validator_address = raw.hex().upper()
        self.validator_account = addresses.encode(raw, addresses.PREFIX + "valcons")
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
            "broadcast_tx_async": self.broadcast_async,
            "akash": self.akash,
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
        method = str(request["method"])
        try:
            return {**base, "result": self.call(method, named_params(method, request.get("params")))}
        except RpcError as error:
            return {**base, "error": error.body}

    # --- node --------------------------------------------------------------------------------------------------

    def node_info(self) -> dict[str, Any]:
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
            "node_info": self.node_info(),
            "sync_info": {
                "latest_block_hash": self.block_hash(chain.height),
                "latest_app_hash": self.app_hash(chain.height - 1),
                "latest_block_height": str(chain.height),
                "latest_block_time": time_text(chain.time_ns),
                "earliest_block_hash": self.block_hash(first),
                "earliest_app_hash": self.app_hash(first - 1),
                "earliest_block_height": str(first),
                "earliest_block_time": time_text(self._time_of(first)),
                "catching_up": False,
            },
            "validator_info": self._validator(),
        }

    def _validator(self) -> dict[str, Any]:
        key = {"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(self.validator_pubkey).decode()}
        return {"address": self.validator_address, "pub_key": key, "voting_power": "1"}

    def akash(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """The discovery document in Go's JSON, where an empty list is null."""
        found: dict[str, Any] = to_json(versions(self.chain.chain_id))
        for version in found["supported_versions"]:
            version["features"] = version["features"] or None
        return found

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
                "version": NODE_VERSION,
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
        height = _whole(params, "height", 0)
        answer: dict[str, Any] = {"code": 0, "log": "", "info": "", "index": "0", "key": None, "value": None}
        answer |= {"proofOps": None, "height": "0", "codespace": ""}
        try:
            value = self._query(path, data, height)
        except errors.HeightError as error:
            found = error.error
            return {"response": {**answer, "code": found.code, "log": found.text, "codespace": found.codespace}}
        except errors.QueryError as error:
            if error.code == errors.UNIMPLEMENTED:
                code, log = 6, "unknown query path: unknown request"
            else:
                code, words = _SDK_CODE_OF_GRPC.get(error.code, _INVALID_REQUEST)
                log = f"rpc error: code = {_GRPC_NAMES.get(error.code, 'Unknown')} desc = {error.message}: {words}"
            return {"response": {**answer, "code": code, "log": log, "codespace": "sdk"}}
        encoded = base64.b64encode(value).decode() or None
        return {"response": {**answer, "value": encoded, "height": str(height or self.chain.height)}}

    def _query(self, path: str, data: bytes, height: int) -> bytes:
        if path in self.node.methods:
            return self.node.methods[path](data)
        return self.chain.query(path, data, height=height or None)

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
            "last_block_id": self.block_id(height - 1),
            "last_commit_hash": digest(chain_id, "commit", height),
            "data_hash": merkle([tx_hash(raw) for raw, _ in block.txs]).hex().upper(),
            "validators_hash": digest(chain_id, "validators"),
            "next_validators_hash": digest(chain_id, "validators"),
            "consensus_hash": CONSENSUS_HASH,
            "app_hash": self.app_hash(height - 1),
            "last_results_hash": digest(chain_id, "results", height),
            "evidence_hash": merkle([]).hex().upper(),
            "proposer_address": self.validator_address,
        }

    def block_id(self, height: int) -> dict[str, Any]:
        return {
            "hash": self.block_hash(height),
            "parts": {"total": 1, "hash": digest(self.chain.chain_id, "parts", height)},
        }

    def block_json(self, block: BlockResult) -> dict[str, Any]:
        return {
            "header": self.header_json(block),
            "data": {"txs": [base64.b64encode(raw).decode() for raw, _ in block.txs]},
            "evidence": {"evidence": []},
            "last_commit": self._commit(block.height - 1, block.time_ns),
        }

    def _commit(self, height: int, time_ns: int) -> dict[str, Any]:
        halves = (digest(self.chain.chain_id, "signature", height, half) for half in (0, 1))
        signature = {
            "block_id_flag": 2,
            "validator_address": self.validator_address,
            "timestamp": time_text(time_ns),
            "signature": base64.b64encode(bytes.fromhex("".join(halves))).decode(),
        }
        return {"height": str(height), "round": 0, "block_id": self.block_id(height), "signatures": [signature]}

    def block(self, params: Mapping[str, Any]) -> dict[str, Any]:
        block = self._block(params)
        return {"block_id": self.block_id(block.height), "block": self.block_json(block)}

    def block_results(self, params: Mapping[str, Any]) -> dict[str, Any]:
        block = self._block(params)
        return {
            "height": str(block.height),
            "txs_results": [tx_result_json(result) for _, result in block.txs] or None,
            "finalize_block_events": [event_json(e) for e in block.end_events],
            "validator_updates": None,
            "consensus_param_updates": {**_BLOCK_PARAMS, "version": {}, "abci": {}},
            "app_hash": base64.b64encode(bytes.fromhex(self.app_hash(block.height))).decode(),
        }

    def blockchain(self, params: Mapping[str, Any]) -> dict[str, Any]:
        top = min(_whole(params, "maxHeight", 0) or self.chain.height, self.chain.height)
        low = max(_whole(params, "minHeight", 1), top - MAX_METAS + 1, self.chain.earliest_height)
        metas = []
        for height in range(top, low - 1, -1):
            block = self.chain.block(height)
            if block is not None:
                metas.append(
                    {
                        "block_id": self.block_id(height),
                        "block_size": str(sum(len(raw) for raw, _ in block.txs)),
                        "header": self.header_json(block),
                        "num_txs": str(len(block.txs)),
                    }
                )
        return {"last_height": str(self.chain.height), "block_metas": metas}

    def commit(self, params: Mapping[str, Any]) -> dict[str, Any]:
        block = self._block(params)
        following = self.chain.block(block.height + 1)
        commit = self._commit(block.height, following.time_ns if following is not None else block.time_ns)
        canonical = following is not None
        return {"signed_header": {"header": self.header_json(block), "commit": commit}, "canonical": canonical}

    def validators(self, params: Mapping[str, Any]) -> dict[str, Any]:
        block = self._block(params)
        entry = {**self._validator(), "proposer_priority": "0"}
        return {"block_height": str(block.height), "validators": [entry], "count": "1", "total": "1"}

    def consensus_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        block = self._block(params)
        return {
            "block_height": str(block.height),
            "consensus_params": {
                **_BLOCK_PARAMS,
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
            raise internal(str(error)) from None
        order = str(params.get("order_by") or "")
        if order not in ("", "asc", "desc"):
            raise internal("expected order_by to be either `asc` or `desc` or empty")
        if order == "desc":
            places.reverse()
        size = _whole(params, "per_page", SEARCH_PAGE)
        size = SEARCH_PAGE if size < 1 else min(size, MAX_SEARCH_PAGE)
        page, pages = _whole(params, "page", 1), max(-(-len(places) // size), 1)
        if not 1 <= page <= pages:
            raise internal(f"page should be within [1, {pages}] range, given {page}")
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

    def broadcast_async(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Takes the bytes and says nothing of what CheckTx thinks of them."""
        return {**self.broadcast_sync(params), "code": 0, "log": "", "codespace": ""}

    def unconfirmed(self, _: Mapping[str, Any]) -> dict[str, Any]:
        waiting = list(self.chain.mempool.values())
        size = str(sum(len(raw) for raw in waiting))
        txs = [base64.b64encode(raw).decode() for raw in waiting[:_SHOWN_WAITING]]
        return {"n_txs": str(len(txs)), "total": str(len(waiting)), "total_bytes": size, "txs": txs}


def _whole(params: Mapping[str, Any], name: str, default: int) -> int:
    value = params.get(name)
    try:
        return int(value) if value not in (None, "") else default
    except (TypeError, ValueError):
        raise RpcError(INVALID_PARAMS, "Invalid params", f"error converting json params: {name} {value!r}") from None


def named_params(method: str, params: Any) -> Mapping[str, Any]:
    """Parameters by name, whether they came so or in order."""
    if isinstance(params, list):
        return dict(zip(_POSITIONS.get(method, ()), params, strict=False))
    return params if isinstance(params, dict) else {}


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
