"""Reading the chain and handing it transactions, over several endpoints.

Endpoints are ranked by what they last said of themselves: right chain, not catching up, highest, fastest. A call goes
to the best one and falls through to the next on silence. A node's positive "not found" is an answer; silence is
:class:`~gpulease.errors.ChainUnreachable`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import grpc
import grpc.aio

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.chain import codec
from gpulease.chain.events import Block, TxOutcome
from gpulease.chain.rpc import Broadcast, NodeStatus, RpcEndpoint
from gpulease.errors import ChainError, ChainMismatch, ChainPruned, ChainUnreachable
from gpulease.ids import DeploymentId, LeaseId, OrderId
from gpulease.market import model as m
from gpulease.pb.akash.audit.v1 import query_pb2 as audit_query
from gpulease.pb.akash.cert.v1 import query_pb2 as cert_query
from gpulease.pb.akash.deployment.v1beta4 import query_pb2 as deployment_query
from gpulease.pb.akash.market.v1beta5 import query_pb2 as market_query
from gpulease.pb.akash.provider.v1beta4 import query_pb2 as provider_query

from cosmos.auth.v1beta1 import auth_pb2
from cosmos.auth.v1beta1 import query_pb2 as auth_query
from cosmos.bank.v1beta1 import query_pb2 as bank_query
from cosmos.crypto.secp256k1 import keys_pb2

T = TypeVar("T")
PAGE = 200
MAX_ITEMS = 20_000
HEIGHT_KEY = "x-cosmos-block-height"
"""In a request's metadata: answer from the state at this height, or not at all (cosmos-sdk baseapp)."""
_NOT_FOUND_WORDS = ("not found", "unknown")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A node: CometBFT RPC as a URL, gRPC as host:port."""

    rpc: str
    grpc: str


@dataclass(frozen=True, slots=True)
class Account:
    number: int
    sequence: int
    pubkey: bytes | None


@dataclass(slots=True)
class _Node:
    endpoint: Endpoint
    rpc: RpcEndpoint
    channel: grpc.aio.Channel
    status: NodeStatus | None = None
    latency_s: float = 0.0
    problem: str = ""
    failures: int = 0

    def rank(self) -> tuple[int, int, int, float]:
        if self.status is None:
            return (2, self.failures, 0, self.latency_s)
        return (int(self.status.catching_up), self.failures, -self.status.height, self.latency_s)


@dataclass(slots=True)
class ChainClient:
    """Queries and broadcasts with deadlines and failover. Create inside a running loop; close after use."""

    endpoints: Sequence[Endpoint]
    chain_id: str
    timeout_s: float = 5.0
    _nodes: list[_Node] = field(default_factory=list)
    _session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession()
        options = [
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.max_reconnect_backoff_ms", 10_000),
            ("grpc.initial_reconnect_backoff_ms", 500),
        ]
        for endpoint in self.endpoints:
            target = endpoint.grpc.removeprefix("grpc://").removeprefix("http://")
            channel = grpc.aio.insecure_channel(target, options=options)
            rpc = RpcEndpoint(endpoint.rpc, self._session, timeout_s=self.timeout_s)
            self._nodes.append(_Node(endpoint, rpc, channel))

    async def close(self) -> None:
        for node in self._nodes:
            await node.channel.close(0.2)
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> ChainClient:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- which node --------------------------------------------------------------------------------------------

    async def status(self) -> NodeStatus:
        """Ask every node; the best usable one's answer.

        ``ChainMismatch`` when all that answer speak for another chain, ``ChainUnreachable`` when none can be used.
        """
        await asyncio.gather(*(self._ask(node) for node in self._nodes))
        usable = [n for n in self._nodes if n.status is not None and not n.status.catching_up]
        if usable:
            best = min(usable, key=_Node.rank)
            assert best.status is not None
            return best.status
        foreign = [n.problem for n in self._nodes if n.problem.startswith("foreign:")]
        if foreign and len(foreign) == len([n for n in self._nodes if n.problem]):
            raise ChainMismatch(foreign[0].removeprefix("foreign:"))
        problems = "; ".join(n.problem or f"{n.endpoint.rpc} is catching up" for n in self._nodes)
        raise ChainUnreachable(problems or "no chain endpoint is configured")

    async def _ask(self, node: _Node) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            status = await node.rpc.status()
        except (ChainUnreachable, ChainError) as error:
            node.status, node.problem = None, str(error)
            node.failures = min(node.failures + 1, 10)
            return
        node.latency_s = loop.time() - began
        if status.chain_id != self.chain_id:
            node.status = None
            node.problem = (
                f"foreign:{node.endpoint.rpc} speaks for chain {status.chain_id!r}, not {self.chain_id!r}; "
                "correct spec.chain.chainID or its endpoints"
            )
            return
        node.status, node.problem, node.failures = status, "", 0

    async def _each(self, call: Callable[[_Node], Awaitable[T]]) -> T:
        """Try nodes from best to worst; silence moves on, an answer (also an error answer) ends it."""
        if all(node.status is None for node in self._nodes):
            await self.status()
        last: ChainUnreachable | None = None
        for node in sorted((n for n in self._nodes if not n.problem.startswith("foreign:")), key=_Node.rank):
            try:
                return await call(node)
            except ChainUnreachable as error:
                node.failures = min(node.failures + 1, 10)
                last = error
        raise last or ChainUnreachable("no chain endpoint can be used")

    # --- RPC ---------------------------------------------------------------------------------------------------

    async def block(self, height: int) -> Block:
        """One block's results. ``ChainPruned`` only when no node has it any more."""
        pruned: ChainPruned | None = None

        async def read(node: _Node) -> Block:
            nonlocal pruned
            try:
                return await node.rpc.block(height)
            except ChainPruned as error:
                pruned = error
                raise ChainUnreachable(str(error)) from error
            except ChainError as error:
                # A node behind the tip refuses a height it has not reached: another may have it.
                raise ChainUnreachable(str(error)) from error

        try:
            return await self._each(read)
        except ChainUnreachable:
            if pruned is not None:
                raise pruned from None
            raise

    async def broadcast(self, raw: bytes) -> Broadcast:
        return await self._each(lambda node: node.rpc.broadcast(raw))

    async def find_tx(self, hash_: str) -> tuple[int, TxOutcome] | None:
        """An included transaction anywhere, None when every node that answers has none."""
        found = await asyncio.gather(*(self._find_on(node, hash_) for node in self._nodes))
        answers = [entry for entry in found if not isinstance(entry, ChainUnreachable)]
        if not answers:
            raise ChainUnreachable("no chain endpoint could say whether the transaction is included")
        return next((entry for entry in answers if entry is not None), None)

    async def _find_on(self, node: _Node, hash_: str) -> tuple[int, TxOutcome] | ChainUnreachable | None:
        if node.problem.startswith("foreign:"):
            return ChainUnreachable(node.problem)
        try:
            return await node.rpc.find_tx(hash_)
        except ChainUnreachable as error:
            return error
        except ChainError as error:
            return ChainUnreachable(str(error))

    async def hints(self, wake: asyncio.Event) -> None:
        """Listen on the best node's websocket until it ends."""
        node = min(self._nodes, key=_Node.rank)
        await node.rpc.hints(wake)

    # --- queries -----------------------------------------------------------------------------------------------

    async def _query(self, method: str, request: Any, response: type[Any], *, height: int | None = None) -> Any:
        """One gRPC query; None for a positive "not found". ``height`` asks for the state at exactly that height."""
        metadata = None if height is None else ((HEIGHT_KEY, str(height)),)

        async def ask(node: _Node) -> Any:
            stub = node.channel.unary_unary(
                method, request_serializer=lambda r: r.SerializeToString(), response_deserializer=response.FromString
            )
            try:
                return await stub(request, timeout=self.timeout_s, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                words = error.details() or ""
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return None
                if error.code() is grpc.StatusCode.UNKNOWN and any(w in words for w in _NOT_FOUND_WORDS):
                    return None
                if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED):
                    raise ChainError(f"{method}: {words}") from error
                raise ChainUnreachable(f"{node.endpoint.grpc} did not answer {method}: {words}") from error

        return await self._each(ask)

    async def _pages(
        self, method: str, request: Any, response: type[Any], name: str, *, height: int | None = None
    ) -> list[Any]:
        items: list[Any] = []
        request.pagination.limit = PAGE
        while True:
            answer = await self._query(method, request, response, height=height)
            if answer is None:
                return items
            items.extend(getattr(answer, name))
            if not answer.pagination.next_key:
                return items
            if len(items) >= MAX_ITEMS:
                raise ChainError(f"{method} has more than {MAX_ITEMS} items; narrow the filter")
            request.pagination.key = answer.pagination.next_key

    async def deployment(self, id_: DeploymentId) -> m.Deployment | None:
        raw = await self._query(
            "/akash.deployment.v1beta4.Query/Deployment",
            deployment_query.QueryDeploymentRequest(id=codec.pb_deployment_id(id_)),
            deployment_query.QueryDeploymentResponse,
        )
        return None if raw is None else codec.deployment(raw)

    async def order(self, id_: OrderId) -> m.Order | None:
        raw = await self._query(
            "/akash.market.v1beta5.Query/Order",
            market_query.QueryOrderRequest(id=codec.pb_order_id(id_)),
            market_query.QueryOrderResponse,
        )
        return None if raw is None else codec.order(raw.order)

    async def orders(self, *, owner: str = "", dseq: int = 0, state: str = "") -> list[m.Order]:
        request = market_query.QueryOrdersRequest()
        request.filters.owner, request.filters.dseq, request.filters.state = owner, dseq, state
        raw = await self._pages(
            "/akash.market.v1beta5.Query/Orders", request, market_query.QueryOrdersResponse, "orders"
        )
        return [codec.order(entry) for entry in raw]

    async def bid(self, id_: LeaseId) -> m.Bid | None:
        raw = await self._query(
            "/akash.market.v1beta5.Query/Bid",
            market_query.QueryBidRequest(id=codec.pb_bid_id(id_)),
            market_query.QueryBidResponse,
        )
        return None if raw is None else codec.bid(raw)

    async def bids(self, *, owner: str = "", dseq: int = 0, provider: str = "", state: str = "") -> list[m.Bid]:
        request = market_query.QueryBidsRequest()
        request.filters.owner, request.filters.dseq = owner, dseq
        request.filters.provider, request.filters.state = provider, state
        raw = await self._pages("/akash.market.v1beta5.Query/Bids", request, market_query.QueryBidsResponse, "bids")
        return [codec.bid(entry) for entry in raw]

    async def lease(self, id_: LeaseId) -> m.Lease | None:
        raw = await self._query(
            "/akash.market.v1beta5.Query/Lease",
            market_query.QueryLeaseRequest(id=codec.pb_lease_id(id_)),
            market_query.QueryLeaseResponse,
        )
        return None if raw is None else codec.lease(raw)

    async def leases(self, *, owner: str = "", dseq: int = 0, provider: str = "", state: str = "") -> list[m.Lease]:
        request = market_query.QueryLeasesRequest()
        request.filters.owner, request.filters.dseq = owner, dseq
        request.filters.provider, request.filters.state = provider, state
        raw = await self._pages(
            "/akash.market.v1beta5.Query/Leases", request, market_query.QueryLeasesResponse, "leases"
        )
        return [codec.lease(entry) for entry in raw]

    async def provider(self, owner: str) -> m.ProviderRecord | None:
        raw = await self._query(
            "/akash.provider.v1beta4.Query/Provider",
            provider_query.QueryProviderRequest(owner=owner),
            provider_query.QueryProviderResponse,
        )
        return None if raw is None else codec.provider(raw.provider)

    async def providers(self) -> list[m.ProviderRecord]:
        raw = await self._pages(
            "/akash.provider.v1beta4.Query/Providers",
            provider_query.QueryProvidersRequest(),
            provider_query.QueryProvidersResponse,
            "providers",
        )
        return [codec.provider(entry) for entry in raw]

    async def audited_attributes(self, owner: str, auditor: str) -> tuple[m.Attribute, ...]:
        """What an auditor has signed of a provider's attributes; empty when nothing."""
        raw = await self._query(
            "/akash.audit.v1.Query/ProviderAuditorAttributes",
            audit_query.QueryProviderAuditorRequest(owner=owner, auditor=auditor),
            audit_query.QueryProvidersResponse,
        )
        if raw is None:
            return ()
        return tuple(m.Attribute(a.key, a.value) for entry in raw.providers for a in entry.attributes)

    async def certificates(self, owner: str, *, serial: str = "", state: str = "") -> list[m.Certificate]:
        request = cert_query.QueryCertificatesRequest()
        request.filter.owner, request.filter.serial, request.filter.state = owner, serial, state
        raw = await self._pages(
            "/akash.cert.v1.Query/Certificates", request, cert_query.QueryCertificatesResponse, "certificates"
        )
        return [codec.certificate(owner, entry) for entry in raw]

    async def balances(self, address: str, *, height: int | None = None) -> dict[str, int]:
        """At ``height``, or at the height of whatever node answers; ``ChainError`` when it no longer has that one."""
        raw = await self._pages(
            "/cosmos.bank.v1beta1.Query/AllBalances",
            bank_query.QueryAllBalancesRequest(address=address),
            bank_query.QueryAllBalancesResponse,
            "balances",
            height=height,
        )
        return {coin.denom: int(coin.amount) for coin in raw}

    async def account(self, address: str) -> Account | None:
        raw = await self._query(
            "/cosmos.auth.v1beta1.Query/Account",
            auth_query.QueryAccountRequest(address=address),
            auth_query.QueryAccountResponse,
        )
        if raw is None:
            return None
        base = auth_pb2.BaseAccount()
        if not raw.account.Unpack(base):
            raise ChainError(f"account {address} is of type {raw.account.type_url}, which cannot sign")
        pubkey = keys_pb2.PubKey()
        known = base.HasField("pub_key") and base.pub_key.Unpack(pubkey)
        return Account(int(base.account_number), int(base.sequence), bytes(pubkey.key) if known else None)
