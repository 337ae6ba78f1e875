"""gRPC: every query of the chain, the transaction service and reflection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.devnet import ante, errors, queries, registry
from gpulease.devnet.chain import BlockResult, Devnet, TxResult, tx_hash
from gpulease.devnet.rpc import time_text

from cosmos.base.abci.v1beta1 import abci_pb2
from cosmos.base.tendermint.v1beta1 import query_pb2 as tm_query
from cosmos.tx.v1beta1 import service_pb2

_GenericHandler: Any = grpc.GenericRpcHandler
HEIGHT_KEY = "x-cosmos-block-height"
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_TX = "/cosmos.tx.v1beta1.Service/"
_TM = "/cosmos.base.tendermint.v1beta1.Service/"


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
    for event in result.events:
        entry = answer.events.add(type=event.type)
        for key, value in event.attributes:
            entry.attributes.add(key=key, value=value, index=True)
    return answer


def included_response(block: BlockResult, index: int) -> Any:
    raw, result = block.txs[index]
    response = tx_response(raw, result, height=block.height, time=time_text(block.time_ns))
    decoded = ante.decode(raw)
    tx = service_pb2.GetTxResponse().tx
    tx.body.CopyFrom(decoded.body)
    tx.auth_info.CopyFrom(decoded.auth_info)
    tx.signatures.extend(decoded.raw.signatures)
    response.tx.Pack(tx)
    response.tx.type_url = "/cosmos.tx.v1beta1.Tx"
    return service_pb2.GetTxResponse(tx=tx, tx_response=response)


class Services(_GenericHandler):  # type: ignore[misc]
    """Routes full method names: queries to the chain, the rest to the handlers below."""

    def __init__(self, chain: Devnet) -> None:
        self.chain = chain
        self._own: dict[str, Callable[[bytes], bytes]] = {
            _TX + "Simulate": self._simulate,
            _TX + "BroadcastTx": self._broadcast,
            _TX + "GetTx": self._get_tx,
            _TM + "GetNodeInfo": self._node_info,
            _TM + "GetLatestBlock": self._latest_block,
            _TM + "GetBlockByHeight": self._block_by_height,
            _TM + "GetSyncing": lambda _: bytes(tm_query.GetSyncingResponse(syncing=False).SerializeToString()),
        }

    def service(self, details: Any) -> Any:
        method = details.method
        if method not in queries.METHODS and method not in self._own:
            return None
        return grpc.unary_unary_rpc_method_handler(self._handler(method))

    def _handler(self, method: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handle(request: bytes, context: Any) -> bytes:
            height = None
            for key, value in context.invocation_metadata() or ():
                if key == HEIGHT_KEY and str(value).isdecimal():
                    height = int(value)
            await context.send_initial_metadata(((HEIGHT_KEY, str(self.chain.height)),))
            try:
                if method in self._own:
                    return self._own[method](request)
                return self.chain.query(method, request, height=height)
            except errors.QueryError as error:
                await context.abort(_STATUS.get(error.code, grpc.StatusCode.UNKNOWN), error.message)
            except DecodeError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return b""

        return handle

    def _simulate(self, request: bytes) -> bytes:
        message = service_pb2.SimulateRequest.FromString(request)
        raw = message.tx_bytes
        if not raw:
            tx = message.tx
            from cosmos.tx.v1beta1 import tx_pb2

            raw = tx_pb2.TxRaw(
                body_bytes=tx.body.SerializeToString(),
                auth_info_bytes=tx.auth_info.SerializeToString(),
                signatures=tx.signatures,
            ).SerializeToString()
        result = self.chain.simulate(raw)
        if result.code != 0:
            raise errors.QueryError(2, f"{result.log} With gas wanted: '0' and gas used: '{result.gas_used}' ")
        answer = service_pb2.SimulateResponse()
        answer.gas_info.gas_used = result.gas_used
        answer.gas_info.gas_wanted = result.gas_wanted
        answer.result.data = result.data
        for event in result.events:
            entry = answer.result.events.add(type=event.type)
            for key, value in event.attributes:
                entry.attributes.add(key=key, value=value, index=True)
        return bytes(answer.SerializeToString())

    def _broadcast(self, request: bytes) -> bytes:
        message = service_pb2.BroadcastTxRequest.FromString(request)
        result = self.chain.add_to_mempool(message.tx_bytes)
        return bytes(
            service_pb2.BroadcastTxResponse(tx_response=tx_response(message.tx_bytes, result)).SerializeToString()
        )

    def _get_tx(self, request: bytes) -> bytes:
        wanted = service_pb2.GetTxRequest.FromString(request).hash
        try:
            found = self.chain.tx(bytes.fromhex(wanted))
        except ValueError:
            raise errors.QueryError(errors.INVALID_ARGUMENT, f"invalid hash {wanted}") from None
        if found is None:
            raise errors.QueryError(errors.NOT_FOUND, f"tx not found: {wanted}")
        return bytes(included_response(*found).SerializeToString())

    def _node_info(self, _: bytes) -> bytes:
        answer = tm_query.GetNodeInfoResponse()
        answer.default_node_info.network = self.chain.chain_id
        answer.default_node_info.moniker = "devnet"
        answer.application_version.name = "akash"
        answer.application_version.app_name = "akash"
        answer.application_version.version = "2.1.0"
        return bytes(answer.SerializeToString())

    def _fill(self, answer: Any, height: int, time_ns: int) -> bytes:
        for header in (answer.block.header, answer.sdk_block.header):
            header.chain_id = self.chain.chain_id
            header.height = height
            header.time.FromNanoseconds(time_ns)
        block = self.chain.block(height)
        if block is not None:
            answer.block.data.txs.extend(raw for raw, _ in block.txs)
        return bytes(answer.SerializeToString())

    def _latest_block(self, _: bytes) -> bytes:
        return self._fill(tm_query.GetLatestBlockResponse(), self.chain.height, self.chain.time_ns)

    def _block_by_height(self, request: bytes) -> bytes:
        height = int(tm_query.GetBlockByHeightRequest.FromString(request).height)
        block = self.chain.block(height)
        if block is None:
            raise errors.QueryError(
                errors.INVALID_ARGUMENT, f"requested block height {height} is not available, tip {self.chain.height}"
            )
        return self._fill(tm_query.GetBlockByHeightResponse(), height, block.time_ns)


def build(chain: Devnet) -> Any:
    """An unstarted ``grpc.aio`` server."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 5000)])
    server.add_generic_rpc_handlers((Services(chain),))
    names = sorted({method.rpartition("/")[0].removeprefix("/") for method in queries.METHODS})
    known = [name for name in (*names, _TX.strip("/"), _TM.strip("/")) if registry.has_service(name)]
    reflection.enable_server_reflection((*known, reflection.SERVICE_NAME), server)
    return server
