"""gRPC: every query of the chain, the transaction service and reflection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection

from gpulease.devnet import errors, node_queries, queries, registry
from gpulease.devnet.chain import Devnet
from gpulease.devnet.node_queries import NodeQueries

_GenericHandler: Any = grpc.GenericRpcHandler
HEIGHT_KEY = "x-cosmos-block-height"
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


class Services(_GenericHandler):  # type: ignore[misc]
    """Routes full method names: queries to the chain, the rest to the handlers below."""

    def __init__(self, chain: Devnet, node: NodeQueries) -> None:
        self.chain = chain
        self._own = node.methods

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
            await context.send_initial_metadata(((HEIGHT_KEY, str(height or self.chain.height)),))
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


def build(chain: Devnet, node: NodeQueries) -> Any:
    """An unstarted ``grpc.aio`` server."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 5000)])
    server.add_generic_rpc_handlers((Services(chain, node),))
    names = sorted({method.rpartition("/")[0].removeprefix("/") for method in queries.METHODS})
    known = [name for name in (*names, *node_queries.SERVICES) if registry.has_service(name)]
    reflection.enable_server_reflection((*known, reflection.SERVICE_NAME), server)
    return server
