"""Reading the chain and handing it transactions, over several endpoints.

A node's positive "not found" is an answer; silence is :class:`~gpulease.errors.ChainUnreachable`, and so is an answer
as of a height below what has been read already: a node that is behind must not make something look gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import aiohttp
import grpc
import grpc.aio

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.chain import codec
from gpulease.chain.events import Block, TxOutcome
from gpulease.chain.nodes import Endpoint, Node, Nodes
from gpulease.chain.rpc import Broadcast, NodeStatus, RpcEndpoint, Simulated
from gpulease.errors import ChainError, ChainPruned, ChainUnreachable, GpuleaseError
from gpulease.ids import DeploymentId, LeaseId, OrderId
from gpulease.market import model as m
from gpulease.pb.akash.audit.v1 import query_pb2 as audit_query
from gpulease.pb.akash.cert.v1 import query_pb2 as cert_query
from gpulease.pb.akash.deployment.v1beta4 import query_pb2 as deployment_query
from gpulease.pb.akash.market.v1beta5 import query_pb2 as market_query
from gpulease.pb.akash.provider.v1beta4 import query_pb2 as provider_query
from gpulease.planning import Seen

from cosmos.auth.v1beta1 import auth_pb2
from cosmos.auth.v1beta1 import query_pb2 as auth_query
from cosmos.bank.v1beta1 import query_pb2 as bank_query
from cosmos.crypto.secp256k1 import keys_pb2
from cosmos.tx.v1beta1 import service_pb2 as tx_service

__all__ = ["Account", "ChainClient", "Endpoint"]
T = TypeVar("T")
PAGE = 200
MAX_ITEMS = 20_000
HEIGHT_KEY = "x-cosmos-block-height"
"""In a request's metadata: answer from the state at this height, or not at all (cosmos-sdk baseapp)."""
_STALE_PAUSE_S = 0.05
_NOT_FOUND_WORDS = ("not found", "unknown")
_NO_STATE_WORDS = ("failed to load state", "height in the future")
_SILENT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_HEIGHTS: ContextVar[list[int] | None] = ContextVar("heights", default=None)


@dataclass(frozen=True, slots=True)
class Account:
    number: int
    sequence: int
    pubkey: bytes | None


class _Stale(ChainUnreachable):
    """The node answered as of a height below what has been read already."""


class ChainClient:
    """Queries and broadcasts with deadlines and failover. Create inside a running loop; close after use.

    ``floor_height`` is the height already read: no answer as of an earlier one is taken for the present.
    ``patience_s`` is how long a node may be silent before the next is asked as well.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], chain_id: str, timeout_s: float = 5.0, *, patience_s: float = 1.0
    ) -> None:
        self.endpoints, self.chain_id, self.timeout_s = endpoints, chain_id, timeout_s
        self.floor_height = 0
        self._nodes = Nodes((), chain_id=chain_id, patience_s=patience_s)
        self._session: aiohttp.ClientSession | None = None

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
            rpc = RpcEndpoint(endpoint.rpc, self._session, timeout_s=self.timeout_s, chain_id=self.chain_id)
            self._nodes.all.append(Node(endpoint, rpc, channel))

    async def close(self) -> None:
        for node in self._nodes.all:
            await node.channel.close(0.2)
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> ChainClient:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- RPC ---------------------------------------------------------------------------------------------------

    async def status(self) -> NodeStatus:
        """The best usable node's answer, without waiting long for slow ones.

        ``ChainMismatch`` when all that answer speak for another chain, ``ChainUnreachable`` when none can be used.
        """
        return await self._nodes.status()

    @property
    def earliest_height(self) -> int:
        """The first block that some node still keeps, as far as they said."""
        kept = [node.status.earliest_height for node in self._nodes.all if node.status is not None]
        return min(kept, default=1)

    async def block(self, height: int) -> Block:
        """One block's results. ``ChainPruned`` only when no node has it any more."""
        pruned: ChainPruned | None = None

        async def read(node: Node) -> Block:
            nonlocal pruned
            try:
                return await node.rpc.block(height)
            except ChainPruned as error:
                pruned = error
                raise ChainUnreachable(str(error)) from error
            except ChainError as error:
                # A node behind the tip refuses a height it has not reached: another may have it.
                if node.status is not None and node.status.height >= height and "must be less than" in str(error):
                    node.caught(asyncio.get_running_loop().time())
                raise ChainUnreachable(str(error)) from error

        try:
            return (await self._nodes.first(read)).value
        except ChainUnreachable:
            if pruned is not None:
                raise pruned from None
            raise

    async def broadcast(self, raw: bytes) -> Broadcast:
        """Hand bytes to the best node, or to several when that is silent (the answer then is not ``sole``)."""
        handed: list[Node] = []

        async def hand(node: Node) -> Broadcast:
            handed.append(node)
            return await node.rpc.broadcast(raw)

        answer = await self._nodes.first(hand)
        return replace(answer.value, sole=answer.sole and len(handed) == 1)

    async def find_tx(
        self, hash_: str, *, at_least_height: int = 0, after_height: int | None = None
    ) -> tuple[int, TxOutcome] | None:
        """An included transaction anywhere; None when no node that answers has it.

        Only a node that can show block ``at_least_height`` may say no: one that is behind knows nothing. With
        ``after_height``, neither may one that has pruned blocks after it: ``ChainPruned`` when that is all there is.
        """
        asked = (self._find_on(node, hash_, at_least_height, after_height) for node in self._nodes.all)
        found = await asyncio.gather(*asked)
        answers = [entry for entry in found if not isinstance(entry, GpuleaseError)]
        if not answers:
            pruned = next((entry for entry in found if isinstance(entry, ChainPruned)), None)
            raise pruned or ChainUnreachable("no chain endpoint could say whether the transaction is included")
        return next((entry for entry in answers if entry is not None), None)

    async def _find_on(
        self, node: Node, hash_: str, least: int, after_height: int | None
    ) -> tuple[int, TxOutcome] | ChainUnreachable | ChainPruned | None:
        if node.foreign:
            return ChainUnreachable(node.problem)
        try:
            reached = least == 0 or await node.rpc.has_reached(least)
            found = await node.rpc.find_tx(hash_)
            if found is None and not reached:
                return ChainUnreachable(f"{node.endpoint.rpc} has not reached height {least}")
            if found is None and after_height is not None:
                kept = (await node.rpc.status()).earliest_height
                if kept > after_height + 1:
                    return ChainPruned(f"{node.endpoint.rpc} keeps blocks from {kept} on only")
            return found
        except ChainUnreachable as error:
            return error
        except ChainError as error:
            return ChainUnreachable(str(error))

    async def hints(self, wake: asyncio.Event) -> None:
        """Listen on the best node's websocket until it ends."""
        best = self._nodes.best_first()
        if best:
            await best[0].rpc.hints(wake)

    # --- queries -----------------------------------------------------------------------------------------------

    async def seen(self, answer: Awaitable[T], *, exact: bool = False) -> Seen[T]:
        """A query of this client (a coroutine, not yet running) with the height its answer held at.

        Of an answer in several pages that is the lowest; with ``exact``, different ones are ``ChainUnreachable``.
        """
        heights: list[int] = []
        token = _HEIGHTS.set(heights)
        try:
            value = await answer
        finally:
            _HEIGHTS.reset(token)
        if exact and len(set(heights)) > 1:
            raise ChainUnreachable("the chain moved on while it was read; try again")
        return Seen(value, min(heights, default=self.floor_height))

    async def _query(self, method: str, request: Any, response: type[Any], *, height: int | None = None) -> Any:
        """One gRPC query; None for a positive "not found". ``height`` asks for the state at exactly that height."""

        async def ask(node: Node) -> tuple[Any, int]:
            return await self._ask(node, method, request, response, height)

        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self.timeout_s
        while True:
            try:
                value, held_at = (await self._nodes.first(ask)).value
                break
            except _Stale:
                # A node's queries may follow its blocks by a moment.
                if loop.time() >= give_up_s:
                    raise
                await asyncio.sleep(_STALE_PAUSE_S)
        heights = _HEIGHTS.get()
        if heights is not None:
            heights.append(held_at)
        return value

    async def _ask(
        self, node: Node, method: str, request: Any, response: type[Any], asked_height: int | None
    ) -> tuple[Any, int]:
        stub = node.channel.unary_unary(
            method, request_serializer=lambda r: r.SerializeToString(), response_deserializer=response.FromString
        )
        metadata = None if asked_height is None else ((HEIGHT_KEY, str(asked_height)),)
        call = stub(request, timeout=self.timeout_s, metadata=metadata)
        try:
            value = await call
        except grpc.aio.AioRpcError as error:
            words = error.details() or ""
            # A height whose state a node no longer has is "not found" too, and says nothing about what is asked for.
            no_state = asked_height is not None and any(w in words for w in _NO_STATE_WORDS)
            missing = not no_state and (
                error.code() is grpc.StatusCode.NOT_FOUND
                or (error.code() is grpc.StatusCode.UNKNOWN and any(w in words for w in _NOT_FOUND_WORDS))
            )
            if no_state:
                raise ChainError(f"{method}: {words}") from error
            if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED):
                raise ChainError(f"{method}: {words}") from error
            if not missing:
                raise ChainUnreachable(f"{node.endpoint.grpc} did not answer {method}: {words}") from error
            value = None
        if asked_height is not None:
            return value, asked_height
        height = await _height_of(call, node)
        if height < self.floor_height:
            raise _Stale(
                f"{node.endpoint.grpc} answers {method} as of height {height}, below {self.floor_height} which was "
                "read already"
            )
        return value, height

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

    async def simulate(self, raw: bytes) -> Simulated:
        """What a transaction would do now; its failure is an answer. ``ChainError`` when nodes cannot simulate."""
        method = "/cosmos.tx.v1beta1.Service/Simulate"

        async def ask(node: Node) -> Simulated:
            stub = node.channel.unary_unary(
                method,
                request_serializer=lambda r: r.SerializeToString(),
                response_deserializer=tx_service.SimulateResponse.FromString,
            )
            try:
                answer = await stub(tx_service.SimulateRequest(tx_bytes=raw), timeout=self.timeout_s)
            except grpc.aio.AioRpcError as error:
                words = error.details() or error.code().name
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    raise ChainError(f"{node.endpoint.grpc} cannot simulate: {words}") from error
                if error.code() in _SILENT:
                    raise ChainUnreachable(f"{node.endpoint.grpc} did not answer {method}: {words}") from error
                return Simulated(words)
            return Simulated(None, int(answer.gas_info.gas_used))

        return (await self._nodes.first(ask)).value

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


async def _height_of(call: Any, node: Node) -> int:
    """The height a query's answer held at: its header, else what the node last said of itself."""
    for key, value in await call.initial_metadata() or ():
        if key == HEIGHT_KEY and str(value).isdecimal():
            return int(value)
    return node.status.height if node.status is not None else 0
