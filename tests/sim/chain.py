"""The simulated chain's nodes and the operator's real client over them.

A node answers from its own copy of the chain: the newest one, or one that has fallen behind. What a node does to a
call is decided per call: no answer, an error page, or no answer although the transaction was taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import grpc
import grpc.aio

from gpulease.chain.client import HEIGHT_KEY, ChainClient, Endpoint
from gpulease.chain.nodes import Node
from gpulease.chain.rpc import NodeStatus, RpcEndpoint
from gpulease.devnet import errors
from gpulease.devnet.chain import Devnet
from gpulease.devnet.rpc import Rpc, RpcError
from gpulease.errors import ChainError, ChainPruned, ChainUnreachable
from tests.sim.faults import Faults
from tests.sim.process import Process

_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(slots=True)
class ChainNode:
    """``view`` is what this node has seen of the chain; ``main`` where its transactions go."""

    name: str
    main: Devnet
    view: Devnet
    rpc: Rpc = field(init=False)
    wakes: dict[int, asyncio.Event] = field(default_factory=dict)
    foreign: bool = False

    def __post_init__(self) -> None:
        self.rpc = Rpc(self.view)

    def ring(self) -> None:
        for wake in self.wakes.values():
            wake.set()


class SimRpc(RpcEndpoint):
    """JSON-RPC without HTTP: the method table of the devnet answers, the reading of answers is the real one."""

    def __init__(self, node: ChainNode, wire: Wire) -> None:
        self.url, self._node, self._wire = f"http://{node.name}:26657", node, wire
        self._chain_id = node.main.chain_id

    async def call(self, method: str, **params: Any) -> Any:
        async with self._wire.call(self._node, method):
            return self._answer(method, params)

    def _answer(self, method: str, params: Mapping[str, Any]) -> Any:
        try:
            if method == "broadcast_tx_sync" and self._node.view is not self._node.main:
                return self._gossip(params)
            return self._node.rpc.call(method, params)
        except RpcError as error:
            words = str(error.body.get("data") or error.body["message"])
            if "lowest height" in words or "is not available" in words:
                raise ChainPruned(f"{self.url}: {words}") from None
            raise ChainError(words) from None

    def _gossip(self, params: Mapping[str, Any]) -> Any:
        """A node that is behind checks with its old state and passes on what it finds good."""
        answer = self._node.rpc.call("broadcast_tx_sync", params)
        if answer["code"] == 0:
            try:
                Rpc(self._node.main).call("broadcast_tx_sync", params)
            except RpcError:
                return answer
        return answer

    async def status(self) -> NodeStatus:
        async with self._wire.call(self._node, "status"):
            view = self._node.view
            chain_id = "another-chain-1" if self._node.foreign else view.chain_id
            return NodeStatus(chain_id, view.height, view.earliest_height, view.time_ns, False)

    async def hints(self, wake: asyncio.Event) -> None:
        if self._wire.faults.on("hints-silent"):
            await asyncio.sleep(600.0)
            return
        self._node.wakes[id(wake)] = wake
        try:
            await asyncio.Event().wait()
        finally:
            self._node.wakes.pop(id(wake), None)


class _Asked:
    """A gRPC call under way: its answer, and the metadata that comes with it."""

    def __init__(self, answer: Coroutine[Any, Any, Any], node: ChainNode) -> None:
        self._answer, self._node = answer, node

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer.__await__()

    async def initial_metadata(self) -> tuple[tuple[str, str], ...]:
        return ((HEIGHT_KEY, str(self._node.view.height)),)


class _Channel:
    def __init__(self, node: ChainNode, wire: Wire) -> None:
        self._node, self._wire = node, wire

    def unary_unary(self, method: str, *, request_serializer: Any, response_deserializer: Any) -> Any:
        async def ask(request: Any, metadata: Any) -> Any:
            height = next((int(value) for key, value in metadata or () if key == HEIGHT_KEY), None)
            try:
                async with self._wire.call(self._node, method):
                    raw = self._node.view.query(method, request_serializer(request), height=height)
            except errors.QueryError as error:
                raise _rpc_error(_CODES.get(error.code, grpc.StatusCode.UNKNOWN), error.message) from None
            except ChainUnreachable as error:
                raise _rpc_error(grpc.StatusCode.UNAVAILABLE, str(error)) from None
            return response_deserializer(raw)

        def stub(request: Any, *, timeout: float, metadata: Any = None) -> _Asked:
            return _Asked(ask(request, metadata), self._node)

        return stub

    async def close(self, _: float | None = None) -> None:
        return None


def _rpc_error(code: grpc.StatusCode, words: str) -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, nothing, nothing, words)


@dataclass(slots=True)
class Wire:
    """One process's connections to the nodes. ``faults`` strike before a call is taken or after."""

    process: Process
    faults: Faults
    rng: Random
    timeout_s: float = 5.0

    def call(self, node: ChainNode, method: str) -> _Call:
        return _Call(self, node, method)


class _Call:
    def __init__(self, wire: Wire, node: ChainNode, method: str) -> None:
        self._wire, self._node, self._method = wire, node, method

    async def __aenter__(self) -> None:
        wire, name = self._wire, self._node.name
        wire.process.step(f"before {self._method}")
        await asyncio.sleep(0.002 + 0.03 * wire.rng.random())
        if wire.faults.on(f"{name}-down") or wire.faults.on("chain-down"):
            await asyncio.sleep(wire.timeout_s)
            raise ChainUnreachable(f"{name} did not answer {self._method}: timeout")
        if wire.faults.die("chain-lost-request"):
            await asyncio.sleep(wire.timeout_s)
            raise ChainUnreachable(f"{name} did not answer {self._method}: timeout")
        if wire.faults.die("chain-5xx"):
            raise ChainUnreachable(f"{name} did not answer {self._method}: 502 Bad Gateway")
        wire.process.step(f"at {self._method}")

    async def __aexit__(self, kind: Any, error: Any, _: Any) -> None:
        if kind is not None:
            return
        wire = self._wire
        wire.process.step(f"after {self._method}")
        if wire.faults.die("chain-lost-answer"):
            await asyncio.sleep(wire.timeout_s)
            raise ChainUnreachable(f"{self._node.name} did not answer {self._method}: timeout")


class SimChainClient(ChainClient):
    """The real client, ranking and failover included, over simulated nodes."""

    def __init__(self, nodes: Mapping[str, ChainNode], names: list[str], chain_id: str, wire: Wire) -> None:
        super().__init__([Endpoint(f"http://{name}:26657", f"{name}:9090") for name in names], chain_id)
        self._wire, self._sim = wire, [nodes[name] for name in names]

    async def open(self) -> None:
        channels: list[Any] = [_Channel(node, self._wire) for node in self._sim]
        self._nodes.all = [
            Node(endpoint, SimRpc(node, self._wire), channel)
            for endpoint, node, channel in zip(self.endpoints, self._sim, channels, strict=True)
        ]

    async def close(self) -> None:
        return None


class Omniscient(ChainClient):
    """The chain as it is, at once: for actors and checks."""

    def __init__(self, chain: Devnet) -> None:
        super().__init__([], chain.chain_id)
        self._chain = chain

    async def _query(self, method: str, request: Any, response: type[Any], *, height: int | None = None) -> Any:
        try:
            return response.FromString(self._chain.query(method, request.SerializeToString()))
        except errors.QueryError as error:
            if error.code == errors.NOT_FOUND or "not found" in error.message or "unknown" in error.message:
                return None
            raise
