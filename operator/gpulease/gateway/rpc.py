"""The gRPC face: ``akash.provider.v1.ProviderRPC`` and ``akash.provider.lease.v1.LeaseRPC`` (gateway reference §7).

``GetStatus`` is public, as ``/status`` is. Everything else, streams above all, needs a token in the metadata key
``authorization`` or a client certificate, with the same rights as over REST. A wrong header is an error with a code,
never a fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio as grpc_aio
import structlog
from grpc_health.v1 import _async as aio_health
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.chain.codec import group_spec
from gpulease.errors import ChainError, KubeError, KubeNotFound, Unreachable
from gpulease.gateway import logs, rpcwire
from gpulease.gateway.app import Gateway
from gpulease.gateway.auth import Refused, unauthorized
from gpulease.gateway.jwt import Claims, Permit
from gpulease.gateway.logs import NoPods
from gpulease.gateway.manifests import NotTaken
from gpulease.gateway.rates import TooOften
from gpulease.gateway.streams import TooManyStreams
from gpulease.ids import DeploymentId, LeaseId
from gpulease.market.model import GroupSpec
from gpulease.pb.akash.provider.lease.v1 import service_pb2 as lease_pb2
from gpulease.pb.akash.provider.lease.v1 import service_pb2_grpc as lease_grpc
from gpulease.pb.akash.provider.v1 import service_pb2 as provider_pb2
from gpulease.pb.akash.provider.v1 import service_pb2_grpc as provider_grpc
from gpulease.workload.names import lease_namespace

log = structlog.get_logger(__name__)
CertificateOf = Callable[[str], bytes | None]
Screen = Callable[[GroupSpec], Awaitable[Any]]
"""What a bid would be, as a ``BidScreeningResponse``."""
_T = TypeVar("_T")
_MOST_MESSAGE_BYTES = 1 << 20
_MOST_LOG_BYTES = 512 * 1024
_TAIL_LINES = 1000
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    422: grpc.StatusCode.INVALID_ARGUMENT,
}
OPTIONS = (
    ("grpc.max_receive_message_length", _MOST_MESSAGE_BYTES),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.max_concurrent_streams", 100),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.so_reuseport", 0),
)


class Calls:
    """Who calls, what they may, and how an error of ours is told. ``calls_total`` counts (method, code)."""

    def __init__(self, gateway: Gateway, certificate_of: CertificateOf) -> None:
        self.gateway = gateway
        self.desk = gateway.desk
        self.address = gateway.identity.address
        self._certificate_of = certificate_of

    async def who(self, context: Any) -> Claims:
        """``Refused`` for nobody, too: what is public does not ask."""
        given = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        if len(given) > 1 or not all(isinstance(value, str) for value in given):
            raise Refused(400, "invalid authorization header")
        claims = await self.gateway.auth.identify(given[0] if given else None, self._certificate_of(context.peer()))
        if claims is None or not claims.reaches(self.address):
            raise unauthorized("no token, no client certificate, or a token for other providers")
        self.gateway.owners.take(claims.owner)
        return claims

    async def lease(self, context: Any, raw: Any, scope: str) -> tuple[LeaseId, Permit]:
        claims = await self.who(context)
        lease = rpcwire.lease_id(raw)
        permit = claims.permit(self.address, scope, lease.dseq, lease.gseq, lease.oseq)
        if lease.owner != claims.owner or lease.provider != self.address or permit is None:
            raise unauthorized(f"no right to {scope} on this lease")
        return lease, permit

    async def answer(self, context: Any, work: Awaitable[_T]) -> _T:
        """The result, or an ``abort`` with the error's code and sentence."""
        try:
            return await work
        except Exception as error:
            code, words = _told(error)
            if code is grpc.StatusCode.INTERNAL:
                log.exception("rpc_failed")
            await context.abort(code, words)
            raise

    async def stream(self, context: Any, parts: AsyncIterator[_T]) -> AsyncIterator[_T]:
        try:
            async for part in parts:
                yield part
        except Exception as error:
            code, words = _told(error)
            if code is grpc.StatusCode.INTERNAL:
                log.exception("rpc_failed")
            await context.abort(code, words)


def _told(error: Exception) -> tuple[Any, str]:
    if isinstance(error, Refused):
        return _CODES.get(error.status, grpc.StatusCode.UNAUTHENTICATED), error.message
    if isinstance(error, NotTaken):
        return _CODES.get(error.status, grpc.StatusCode.FAILED_PRECONDITION), str(error)
    if isinstance(error, (TooManyStreams, TooOften)):
        return grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
    if isinstance(error, NoPods):
        return grpc.StatusCode.FAILED_PRECONDITION, str(error)
    if isinstance(error, KubeNotFound):
        return grpc.StatusCode.NOT_FOUND, f"kube: {error}"
    if isinstance(error, TimeoutError):
        return grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time; try again"
    if isinstance(error, Unreachable):
        return grpc.StatusCode.UNAVAILABLE, str(error)
    if isinstance(error, (KubeError, ChainError)):
        return grpc.StatusCode.INTERNAL, str(error)
    return grpc.StatusCode.INTERNAL, "the gateway failed; the provider has it in the log"


class ProviderService(provider_grpc.ProviderRPCServicer):
    """Status of the provider, and what it would bid."""

    def __init__(self, calls: Calls, *, now_s: Callable[[], float], poll_s: float, screen: Screen | None) -> None:
        self._calls = calls
        self._now_s = now_s
        self._poll_s = poll_s
        self._screen = screen

    async def GetStatus(self, request: Any, context: Any) -> Any:
        body = await self._calls.answer(context, self._calls.desk.provider_status())
        return rpcwire.status(body, now_s=self._now_s())

    async def StreamStatus(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for part in self._calls.stream(context, self._statuses(context)):
            yield part

    async def _statuses(self, context: Any) -> AsyncIterator[Any]:
        await self._calls.who(context)
        with self._calls.gateway.streams.slot(None):
            told = None
            while True:
                body = await self._calls.desk.provider_status()
                if body != told:
                    told = body
                    yield rpcwire.status(body, now_s=self._now_s())
                await asyncio.sleep(self._poll_s)

    async def BidScreening(self, request: Any, context: Any) -> Any:
        if self._screen is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this provider does not screen orders")
            raise AssertionError  # abort raises
        return await self._calls.answer(context, self._screened(request, context))

    async def _screened(self, request: Any, context: Any) -> Any:
        assert self._screen is not None
        await self._calls.who(context)
        try:
            spec = group_spec(request.group_spec)
        except (ValueError, ArithmeticError, LookupError) as error:
            raise NotTaken(422, f"the group cannot be read: {error}") from None
        return await self._screen(spec)


class LeaseService(lease_grpc.LeaseRPCServicer):
    """What tenants do over REST, for clients that prefer messages."""

    def __init__(self, calls: Calls, *, poll_s: float) -> None:
        self._calls = calls
        self._poll_s = poll_s

    async def SendManifest(self, request: Any, context: Any) -> Any:
        await self._calls.answer(context, self._send(request, context))
        return lease_pb2.SendManifestResponse()

    async def _send(self, request: Any, context: Any) -> None:
        lease, _ = await self._calls.lease(context, request.lease_id, "send-manifest")
        raw = rpcwire.manifest_json(request.manifest)
        count = await self._calls.desk.take_manifest(raw, DeploymentId(lease.owner, lease.dseq))
        log.info("manifest_accepted", lease=str(lease), leases=count, over="grpc")

    async def ServiceStatus(self, request: Any, context: Any) -> Any:
        return await self._calls.answer(context, self._asked(request, context))

    async def _asked(self, request: Any, context: Any) -> Any:
        lease, permit = await self._calls.lease(context, request.lease_id, "status")
        return await self._status(lease, permit, frozenset(request.services))

    async def _status(self, lease: LeaseId, permit: Permit, wanted: frozenset[str]) -> Any:
        _cover(permit, wanted)
        body = await self._calls.desk.lease_status(lease, permit)
        if body is None:
            raise KubeNotFound(404, "NotFound", "lease not found")
        return rpcwire.services(body, wanted)

    async def StreamServiceStatus(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for part in self._calls.stream(context, self._statuses(request, context)):
            yield part

    async def _statuses(self, request: Any, context: Any) -> AsyncIterator[Any]:
        lease, permit = await self._calls.lease(context, request.lease_id, "status")
        with self._calls.gateway.streams.slot(lease):
            told = None
            while True:
                made = await self._status(lease, permit, frozenset(request.services))
                if made != told:
                    told = made
                    yield made
                await asyncio.sleep(self._poll_s)

    async def ServiceLogs(self, request: Any, context: Any) -> Any:
        return await self._calls.answer(context, self._logs(request, context))

    async def _logs(self, request: Any, context: Any) -> Any:
        """The last lines of each pod, by pod name."""
        lease, services = await self._readable(request, context)
        kept: dict[str, bytearray] = {}

        async def take(pod: str, line: str) -> None:
            held = kept.setdefault(pod, bytearray())
            held += f"{line}\n".encode()
            if len(held) > _MOST_LOG_BYTES:
                del held[: len(held) - _MOST_LOG_BYTES]

        async with asyncio.timeout(self._calls.gateway.limits.request_s):
            await self._relay(lease, services, take, follow=False)
        made = lease_pb2.ServiceLogsResponse()
        for pod, held in sorted(kept.items()):
            made.services.add(name=pod, logs=bytes(held))
        return made

    async def StreamServiceLogs(self, request: Any, context: Any) -> None:
        await self._calls.answer(context, self._stream_logs(request, context))

    async def _stream_logs(self, request: Any, context: Any) -> None:
        lease, services = await self._readable(request, context)
        limit_s = self._calls.gateway.limits.streams.socket.send_s

        async def send(pod: str, line: str) -> None:
            made = lease_pb2.ServiceLogsResponse()
            made.services.add(name=pod, logs=f"{line}\n".encode())
            try:
                async with asyncio.timeout(limit_s):
                    await context.write(made)
            except TimeoutError:
                raise TooManyStreams("reader too slow") from None

        with self._calls.gateway.streams.slot(lease):
            await self._relay(lease, services, send, follow=True)

    async def _readable(self, request: Any, context: Any) -> tuple[LeaseId, frozenset[str] | None]:
        lease, permit = await self._calls.lease(context, request.lease_id, "logs")
        _cover(permit, request.services)
        return lease, frozenset(request.services) or permit.services

    async def _relay(self, lease: LeaseId, services: frozenset[str] | None, send: logs.Send, *, follow: bool) -> None:
        await logs.relay(
            self._calls.desk,
            lease_namespace(lease),
            send,
            services=services,
            follow=follow,
            tail_lines=_TAIL_LINES,
            timing=self._calls.gateway.limits.streams.follow,
        )


def _cover(permit: Permit, services: Sequence[str] | frozenset[str]) -> None:
    if not all(permit.covers(name) for name in services):
        raise unauthorized("the token does not name this service")


def server(
    gateway: Gateway, certificate_of: CertificateOf, *, now_s: Callable[[], float], poll_s: float, screen: Screen | None
) -> Any:
    """A ``grpc.aio`` server without a port yet; plain text, for :class:`gpulease.gateway.front.GrpcFront` only."""
    made = grpc_aio.server(options=OPTIONS, maximum_concurrent_rpcs=gateway.limits.streams.at_once + 128)
    calls = Calls(gateway, certificate_of)
    add_provider: Any = provider_grpc.add_ProviderRPCServicer_to_server
    add_lease: Any = lease_grpc.add_LeaseRPCServicer_to_server
    add_provider(ProviderService(calls, now_s=now_s, poll_s=poll_s, screen=screen), made)
    add_lease(LeaseService(calls, poll_s=poll_s), made)
    names = [
        provider_pb2.DESCRIPTOR.services_by_name["ProviderRPC"].full_name,
        lease_pb2.DESCRIPTOR.services_by_name["LeaseRPC"].full_name,
    ]
    healthy = aio_health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, made)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], made)
    return made, healthy, [*names, ""]


async def set_serving(healthy: Any, names: Sequence[str], serving: bool) -> None:
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    for name in names:
        await healthy.set(name, status)
