"""What a node answers besides its modules: transactions, blocks, itself. Served by gRPC, REST and ``abci_query``."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError, Message

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.devnet import ante, errors, search
from gpulease.devnet.chain import MIN_GAS_PRICE, BlockResult, Devnet, TxResult, tx_hash
from gpulease.devnet.context import Event
from gpulease.devnet.render import timestamp_text
from gpulease.pb.akash.discovery.v1 import akash_pb2, client_info_pb2
from gpulease.pb.akash.discovery.v1 import service_pb2 as discovery
from gpulease.units import NS_PER_S, UAKT

from cosmos.base.abci.v1beta1 import abci_pb2
from cosmos.base.node.v1beta1 import query_pb2 as node_query
from cosmos.base.tendermint.v1beta1 import query_pb2 as tm_query
from cosmos.crypto.ed25519 import keys_pb2 as ed25519
from cosmos.tx.v1beta1 import service_pb2, tx_pb2

if TYPE_CHECKING:
    from gpulease.devnet.rpc import Rpc

NODE_VERSION, SDK_VERSION = "2.1.0", "v0.53.6"
API_VERSIONS = ("v1beta4", "v1beta3")
MODULE_VERSIONS = {
    "audit": "v1",
    "bme": "v1",
    "cert": "v1",
    "deployment": "v1beta4",
    "escrow": "v1",
    "market": "v1beta5",
    "oracle": "v2",
    "provider": "v1beta4",
    "take": "v1",
    "wasm": "v1",
}
TX, TENDERMINT = "cosmos.tx.v1beta1.Service", "cosmos.base.tendermint.v1beta1.Service"
NODE, DISCOVERY = "cosmos.base.node.v1beta1.Service", "akash.discovery.v1.Discovery"
SERVICES = (TX, TENDERMINT, NODE, DISCOVERY)
_TX_PAGE = 100


def _add_events(target: Any, events: Sequence[Event]) -> None:
    for event in events:
        entry = target.add(type=event.type)
        for key, value in event.attributes:
            entry.attributes.add(key=key, value=value, index=True)


def tx_response(raw: bytes, result: TxResult, *, height: int = 0, time: str = "") -> Any:
    """The SDK's TxResponse of a result."""
    answer = abci_pb2.TxResponse(
        height=height,
        txhash=tx_hash(raw).hex().upper(),
        codespace=result.codespace,
        code=result.code,
        data=result.data.hex().upper(),
        raw_log=result.log,
        gas_wanted=result.gas_wanted,
        gas_used=result.gas_used,
        timestamp=time,
    )
    _add_events(answer.events, result.events)
    return answer


def included_response(block: BlockResult, index: int) -> Any:
    """GetTx's answer: the transaction twice, as the SDK gives it."""
    raw, result = block.txs[index]
    response = tx_response(raw, result, height=block.height, time=timestamp_text(block.time_ns // NS_PER_S, 0))
    decoded = ante.decode(raw)
    tx = tx_pb2.Tx(body=decoded.body, auth_info=decoded.auth_info, signatures=decoded.raw.signatures)
    response.tx.Pack(tx)
    response.tx.type_url = "/cosmos.tx.v1beta1.Tx"
    return service_pb2.GetTxResponse(tx=tx, tx_response=response)


def versions(chain_id: str) -> Any:
    """Which API versions the node knows, newest first; a client has to know the one under ``client_info``."""
    modules = [client_info_pb2.ModuleVersion(module=name, version=v) for name, v in MODULE_VERSIONS.items()]
    return akash_pb2.Akash(
        client_info=client_info_pb2.ClientInfo(api_version=API_VERSIONS[-1]),
        supported_versions=[client_info_pb2.VersionInfo(api_version=v, modules=modules) for v in API_VERSIONS],
        chain_id=chain_id,
        node_version=NODE_VERSION,
    )


@cache
def _packages() -> tuple[tuple[str, str], ...]:
    from importlib import metadata

    found = {(str(d.metadata["Name"]), d.version) for d in metadata.distributions()}
    return tuple(sorted(pair for pair in found if pair[0] in ("cosmpy", "coincurve", "grpcio", "protobuf")))


class NodeQueries:
    """The node's own gRPC methods, each from request bytes to response bytes."""

    def __init__(self, rpc: Rpc) -> None:
        self.rpc = rpc
        self.methods: dict[str, Callable[[bytes], bytes]] = {}
        self.types: dict[str, tuple[type[Message], type[Message]]] = {}
        services: dict[str, dict[str, tuple[Any, Any, Callable[[Any], Any]]]] = {
            TX: {
                "Simulate": (service_pb2.SimulateRequest, service_pb2.SimulateResponse, self._simulate),
                "BroadcastTx": (service_pb2.BroadcastTxRequest, service_pb2.BroadcastTxResponse, self._broadcast),
                "GetTx": (service_pb2.GetTxRequest, service_pb2.GetTxResponse, self._get_tx),
                "GetTxsEvent": (service_pb2.GetTxsEventRequest, service_pb2.GetTxsEventResponse, self._search),
            },
            TENDERMINT: {
                "GetNodeInfo": (tm_query.GetNodeInfoRequest, tm_query.GetNodeInfoResponse, self._node_info),
                "GetSyncing": (tm_query.GetSyncingRequest, tm_query.GetSyncingResponse, lambda _: {"syncing": False}),
                "GetLatestBlock": (tm_query.GetLatestBlockRequest, tm_query.GetLatestBlockResponse, self._latest),
                "GetBlockByHeight": (
                    tm_query.GetBlockByHeightRequest,
                    tm_query.GetBlockByHeightResponse,
                    self._by_height,
                ),
                "GetLatestValidatorSet": (
                    tm_query.GetLatestValidatorSetRequest,
                    tm_query.GetLatestValidatorSetResponse,
                    self._validators,
                ),
            },
            NODE: {"Config": (node_query.ConfigRequest, node_query.ConfigResponse, self._config)},
            DISCOVERY: {
                "GetInfo": (
                    discovery.GetInfoRequest,
                    discovery.GetInfoResponse,
                    lambda _: {"info": versions(self.chain.chain_id)},
                )
            },
        }
        for service, table in services.items():
            for name, (request, response, handler) in table.items():
                self._add(f"/{service}/{name}", request, response, handler)

    @property
    def chain(self) -> Devnet:
        return self.rpc.chain

    def _add(self, method: str, request: Any, response: Any, handler: Callable[[Any], Any]) -> None:
        def answer(raw: bytes) -> bytes:
            try:
                message = request.FromString(raw)
            except DecodeError as error:
                raise errors.QueryError(errors.INVALID_ARGUMENT, f"bad request: {error}") from error
            found = handler(message)
            return bytes((response(**found) if isinstance(found, dict) else found).SerializeToString())

        self.methods[method] = answer
        self.types[method] = (request, response)

    # --- transactions ------------------------------------------------------------------------------------------

    def _simulate(self, req: Any) -> Any:
        raw = req.tx_bytes
        if not raw:
            if not req.HasField("tx"):
                raise errors.QueryError(errors.INVALID_ARGUMENT, "empty txBytes is not allowed")
            raw = tx_pb2.TxRaw(
                body_bytes=req.tx.body.SerializeToString(),
                auth_info_bytes=req.tx.auth_info.SerializeToString(),
                signatures=req.tx.signatures,
            ).SerializeToString()
        result = self.chain.simulate(raw)
        if result.code != 0:
            words = f"{result.log} with gas used: '{result.gas_used}'"
            raise errors.QueryError(2, words)
        answer = service_pb2.SimulateResponse()
        answer.gas_info.gas_used = result.gas_used
        answer.gas_info.gas_wanted = result.gas_wanted
        answer.result.data = result.data
        answer.result.msg_responses.extend(abci_pb2.TxMsgData.FromString(result.data).msg_responses)
        _add_events(answer.result.events, result.events)
        return answer

    def _broadcast(self, req: Any) -> Any:
        if not req.tx_bytes:
            raise errors.QueryError(errors.INVALID_ARGUMENT, "invalid empty tx")
        result = self.chain.add_to_mempool(req.tx_bytes)
        response = tx_response(req.tx_bytes, result)
        response.ClearField("events")
        response.gas_wanted = response.gas_used = 0
        return service_pb2.BroadcastTxResponse(tx_response=response)

    def _get_tx(self, req: Any) -> Any:
        if not req.hash:
            raise errors.QueryError(errors.INVALID_ARGUMENT, "tx hash cannot be empty")
        try:
            found = self.chain.tx(bytes.fromhex(req.hash))
        except ValueError:
            raise errors.QueryError(2, f"encoding/hex: {req.hash!r} is not hexadecimal") from None
        if found is None:
            raise errors.QueryError(errors.NOT_FOUND, f"tx not found: {req.hash}")
        return included_response(*found)

    def _search(self, req: Any) -> Any:
        query = req.query or " AND ".join(req.events)
        if not query:
            raise errors.QueryError(errors.INVALID_ARGUMENT, "must declare at least one event to search")
        try:
            places = search.matching_txs(self.chain, query)
        except ValueError as error:
            raise errors.QueryError(2, str(error)) from None
        if req.order_by == service_pb2.ORDER_BY_DESC:
            places.reverse()
        limit = int(req.limit) or _TX_PAGE
        start = (max(int(req.page), 1) - 1) * limit
        answers = [included_response(*place) for place in places[start : start + limit]]
        return service_pb2.GetTxsEventResponse(
            txs=[a.tx for a in answers], tx_responses=[a.tx_response for a in answers], total=len(places)
        )

    # --- blocks and the node -----------------------------------------------------------------------------------

    def _node_info(self, _: Any) -> Any:
        info = dict(self.rpc.node_info())
        info["default_node_id"] = info.pop("id")
        info["channels"] = bytes.fromhex(info["channels"])
        info["protocol_version"] = {k: int(v) for k, v in info["protocol_version"].items()}
        version = {
            "name": "akash",
            "app_name": "akash",
            "version": NODE_VERSION,
            "go_version": "none: gpulease devnet",
            "cosmos_sdk_version": SDK_VERSION,
            "build_deps": [{"path": name, "version": v} for name, v in _packages()],
        }
        return {"default_node_info": info, "application_version": version}

    def _fill(self, answer: Any, block: BlockResult) -> Any:
        found = self.rpc.block_json(block)
        _from_json(answer.block_id, self.rpc.block_id(block.height))
        for target in (answer.block, answer.sdk_block):
            _from_json(target.header, found["header"])
            target.evidence.SetInParent()
            _from_json(target.last_commit, found["last_commit"])
            target.data.txs.extend(raw for raw, _ in block.txs)
        answer.sdk_block.header.proposer_address = self.rpc.validator_account
        return answer

    def _latest(self, _: Any) -> Any:
        block = self.chain.block(self.chain.height)
        if block is None:
            raise errors.QueryError(2, "there is no block yet")
        return self._fill(tm_query.GetLatestBlockResponse(), block)

    def _by_height(self, req: Any) -> Any:
        height = int(req.height)
        if height > self.chain.height:
            words = "requested block height is bigger then the chain length"
            raise errors.QueryError(errors.INVALID_ARGUMENT, words)
        block = self.chain.block(height)
        if block is None:
            words = f"height {height} is not available, lowest height is {self.chain.earliest_height}"
            raise errors.QueryError(2, words)
        return self._fill(tm_query.GetBlockByHeightResponse(), block)

    def _validators(self, _: Any) -> Any:
        answer = tm_query.GetLatestValidatorSetResponse(block_height=self.chain.height)
        entry = answer.validators.add(address=self.rpc.validator_account, voting_power=1)
        entry.pub_key.Pack(ed25519.PubKey(key=self.rpc.validator_pubkey))
        entry.pub_key.type_url = "/cosmos.crypto.ed25519.PubKey"
        answer.pagination.total = 1
        return answer

    def _config(self, _: Any) -> Any:
        none = "0"
        return {
            "minimum_gas_price": f"{MIN_GAS_PRICE}{UAKT}",
            "pruning_keep_recent": none,
            "pruning_interval": none,
            "halt_height": 0,
        }


def _from_json(target: Any, found: Any) -> None:
    """The RPC's JSON into the message of the same thing: hexadecimal hashes become bytes."""
    for field in target.DESCRIPTOR.fields:
        name = {"part_set_header": "parts"}.get(field.name, field.name)
        if name not in found:
            continue
        value = found[name]
        if field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp":
            getattr(target, field.name).FromJsonString(value)
        elif field.label == field.LABEL_REPEATED:
            for item in value:
                _from_json(getattr(target, field.name).add(), item)
        elif field.message_type is not None:
            getattr(target, field.name).SetInParent()
            _from_json(getattr(target, field.name), value)
        elif field.type == field.TYPE_BYTES:
            setattr(target, field.name, _bytes(field.name, value))
        elif field.cpp_type == field.CPPTYPE_STRING:
            setattr(target, field.name, value)
        else:
            setattr(target, field.name, int(value))


def _bytes(name: str, text: str) -> bytes:
    return base64.b64decode(text) if name == "signature" else bytes.fromhex(text)
