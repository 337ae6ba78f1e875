"""The provider's HTTPS face: routes, order of checks, limits (gateway reference §0, §1).

Differences from the peer, all on the safe side: service status and migrations ask for a scope; a token's list of
services is enforced; an unreachable chain is 503 and never "unknown account"; bodies, time and concurrency are bounded.
"""

from __future__ import annotations

import asyncio
import platform
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from weakref import WeakSet

import structlog
from aiohttp import web

from gpulease import __version__
from gpulease.errors import ChainError, ChainMismatch, ConfigError, KubeError, KubeNotFound, Unreachable
from gpulease.gateway import answers, migrate
from gpulease.gateway.auth import Authenticator, Refused, unauthorized
from gpulease.gateway.desk import Desk, Identity
from gpulease.gateway.hosts import HostRefused
from gpulease.gateway.jwt import Claims, Permit
from gpulease.gateway.manifests import NotTaken
from gpulease.gateway.ports import ChainPort, ClusterPort
from gpulease.gateway.query import MOST_U32, MOST_U64, BadQuery, path_number, shell_query, stream_query
from gpulease.gateway.rates import Buckets, Rate, TooOften
from gpulease.gateway.streams import StreamLimits, Streams
from gpulease.ids import DeploymentId, LeaseId
from gpulease.workload import manifest
from gpulease.workload.model import ManifestGroup

__all__ = ["Gateway", "Identity", "Limits"]

log = structlog.get_logger(__name__)
_CLAIMS = web.RequestKey("claims", Claims)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Limits:
    """``body_bytes`` is what a Secret can hold."""

    body_bytes: int = 1 << 20
    body_s: float = 20.0
    request_s: float = 30.0
    requests_at_once: int = 128
    status_age_s: float = 10.0
    pods_age_s: float = 1.0
    per_address: Rate = field(default_factory=lambda: Rate(300, 1000))
    per_owner: Rate = field(default_factory=lambda: Rate(20, 600))
    streams: StreamLimits = field(default_factory=StreamLimits)


class Gateway:
    """Serves one provider. ``requests_total`` counts answers by (route, status)."""

    def __init__(
        self,
        identity: Identity,
        *,
        chain: ChainPort,
        cluster: ClusterPort,
        now_s: Callable[[], float],
        limits: Limits | None = None,
    ) -> None:
        self.identity = identity
        self.limits = limits or Limits()
        self.requests_total: Counter[tuple[str, int]] = Counter()
        self.in_flight = 0
        self.seen: WeakSet[object] = WeakSet()
        """Connections that have sent a whole request head."""
        self.auth = Authenticator(chain, now_s=now_s)
        self.desk = Desk(
            identity,
            chain=chain,
            cluster=cluster,
            now_s=now_s,
            status_age_s=self.limits.status_age_s,
            pods_age_s=self.limits.pods_age_s,
        )
        self.addresses = Buckets(self.limits.per_address, now_s=now_s)
        self.owners = Buckets(self.limits.per_owner, now_s=now_s)
        self.streams = Streams(self.desk, self.limits.streams)
        self._cluster = cluster

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._door], client_max_size=self.limits.body_bytes + 1)
        app.on_response_prepare.append(answers.plain_headers)
        lease = "/lease/{dseq}/{gseq}/{oseq}"
        app.router.add_get("/version", self._version, allow_head=False)
        app.router.add_get("/address", self._address, allow_head=False)
        app.router.add_get("/status", self._provider_status, allow_head=False)
        app.router.add_put("/deployment/{dseq}/manifest", self._put_manifest)
        app.router.add_get(f"{lease}/manifest", self._get_manifest, allow_head=False)
        app.router.add_get(f"{lease}/status", self._lease_status, allow_head=False)
        app.router.add_get(f"{lease}/service/{{service}}/status", self._service_status, allow_head=False)
        app.router.add_get(f"{lease}/logs", self._logs, allow_head=False)
        app.router.add_get(f"{lease}/kubeevents", self._events, allow_head=False)
        app.router.add_get(f"{lease}/shell", self._shell, allow_head=False)
        app.router.add_post("/hostname/migrate", self._migrate_hosts)
        app.router.add_post("/endpoint/migrate", self._migrate_endpoints)
        app.on_shutdown.append(self._close_streams)
        return app

    # --- before every handler ------------------------------------------------------------------------------------

    @web.middleware
    async def _door(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.transport is not None:
            self.seen.add(request.transport)
        response = await self._limited(request, handler)
        resource = request.match_info.route.resource
        self.requests_total[resource.canonical if resource else "unknown", response.status] += 1
        return response

    async def _limited(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        problem = request.match_info.http_exception
        if problem is not None:
            return answers.empty(405) if problem.status == 405 else answers.text(404, "404 page not found")
        if self.in_flight >= self.limits.requests_at_once:
            return answers.text(503, "too many requests at once; try again in a moment")
        visit = request[_VISIT] = _Visit(self)
        try:
            async with asyncio.timeout(self.limits.request_s) as visit.limit:
                return await self._answered(request, handler)
        except TimeoutError:
            return answers.text(503, f"no answer within {self.limits.request_s:.0f} s; try again")
        finally:
            visit.leave()

    async def _answered(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            self.addresses.take(request.remote or "")
            claims = await self.auth.identify(_authorization(request), _certificate(request))
            if claims is not None:
                self.owners.take(claims.owner)
                request[_CLAIMS] = claims
            return await handler(request)
        except TooOften as error:
            response = answers.text(429, str(error))
            response.headers["Retry-After"] = "1"
            return response
        except Refused as error:
            log.info("request_refused", path=request.path, status=error.status, why=error.why)
            return answers.message(error.status, error.message)
        except NotTaken as error:
            log.info("manifest_refused", path=request.path, status=error.status, why=str(error))
            return answers.text(error.status, str(error))
        except (BadQuery, HostRefused) as error:
            return answers.text(400, str(error))
        except KubeNotFound as error:
            return answers.text(404, f"kube: {error}")
        except (Unreachable, ChainMismatch, ConfigError) as error:
            log.warning("request_unanswered", path=request.path, why=str(error))
            return answers.text(503, str(error))
        except KubeError as error:
            log.warning("cluster_refused", path=request.path, why=str(error))
            return answers.text(500, f"kube: {error}")
        except ChainError as error:
            log.warning("chain_refused", path=request.path, why=str(error))
            return answers.text(500, str(error))
        except (asyncio.CancelledError, TimeoutError):
            raise
        except web.HTTPException as error:
            return answers.text(error.status, error.reason)
        except Exception:
            # Whatever it is, the tenant gets a sentence and nothing of our insides.
            log.exception("request_failed", path=request.path)
            return answers.text(500, "the gateway failed; the provider has it in the log")

    # --- public --------------------------------------------------------------------------------------------------

    async def _version(self, _: web.Request) -> web.Response:
        own = {
            "name": "gpulease",
            "server_name": "gpulease",
            "version": __version__,
            "commit": "",
            "build_tags": "",
            "go": f"python {platform.python_version()}",
            "build_deps": [],
            "cosmos_sdk_version": "",
        }
        return answers.success({"akash": own, "kube": await self._cluster.version()})

    async def _address(self, _: web.Request) -> web.Response:
        return answers.success({"address": self.identity.address})

    async def _provider_status(self, _: web.Request) -> web.Response:
        return answers.success(await self.desk.provider_status())

    # --- manifests -----------------------------------------------------------------------------------------------

    async def _put_manifest(self, request: web.Request) -> web.Response:
        claims = self._known(request)
        dseq = path_number(request.match_info["dseq"], MOST_U64)
        if claims.permit(self.identity.address, "send-manifest", dseq) is None:
            raise unauthorized("the token does not allow send-manifest")
        raw = await self._body(request)
        if isinstance(raw, web.Response):
            return raw
        id_ = DeploymentId(claims.owner, dseq)
        count = await self.desk.take_manifest(raw, id_)
        log.info("manifest_accepted", deployment=str(id_), leases=count)
        return answers.empty()

    async def _body(self, request: web.Request) -> bytes | web.Response:
        limit = self.limits.body_bytes
        try:
            async with asyncio.timeout(self.limits.body_s):
                return await request.read()
        except TimeoutError:
            return answers.text(408, f"the body did not arrive within {self.limits.body_s:.0f} s")
        except web.HTTPRequestEntityTooLarge:
            return answers.text(413, f"the body is larger than {limit} bytes; make it smaller")

    async def _get_manifest(self, request: web.Request) -> web.Response:
        lease, permit = self._lease(request, "get-manifest")
        group = await self.desk.group(lease)
        if group is None:
            return answers.text(404, "lease not found")
        services = tuple(s for s in group.services if permit.covers(s.name))
        return answers.success([manifest.read_back(ManifestGroup(group.name, services))])

    # --- status --------------------------------------------------------------------------------------------------

    async def _lease_status(self, request: web.Request) -> web.Response:
        lease, permit = self._lease(request, "status")
        body = await self.desk.lease_status(lease, permit)
        return answers.empty(404) if body is None else answers.success(body)

    async def _service_status(self, request: web.Request) -> web.Response:
        lease, permit = self._lease(request, "status")
        name = request.match_info["service"]
        if not permit.covers(name):
            raise unauthorized("the token does not name this service")
        return answers.success(await self.desk.service_status(lease, name))

    # --- streams -------------------------------------------------------------------------------------------------

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        self._known_lease(request)
        query = stream_query(request.rel_url.raw_query_string)
        lease, permit = self._lease(request, "logs")
        self._cover(permit, query.services)
        return await self.streams.logs(request, lease, query, permit.services, request[_VISIT].become_stream)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        self._known_lease(request)
        query = stream_query(request.rel_url.raw_query_string)
        lease, permit = self._lease(request, "events")
        self._cover(permit, query.services)
        return await self.streams.events(request, lease, query, permit.services, request[_VISIT].become_stream)

    async def _shell(self, request: web.Request) -> web.StreamResponse:
        lease, permit = self._lease(request, "shell")
        query = shell_query(request.rel_url.raw_query_string)
        if query is None:
            return answers.empty(400)
        self._cover(permit, (query.service,))
        return await self.streams.shell(request, lease, query, request[_VISIT].become_stream)

    async def _close_streams(self, _: web.Application) -> None:
        await self.streams.close()

    # --- migrations ----------------------------------------------------------------------------------------------

    async def _migrate_hosts(self, request: web.Request) -> web.Response:
        return await self._migrate(request, "hostname-migrate", "hostnames_to_migrate", migrate.hosts)

    async def _migrate_endpoints(self, request: web.Request) -> web.Response:
        return await self._migrate(request, "ip-migrate", "endpoints_to_migrate", migrate.endpoints)

    async def _migrate(self, request: web.Request, scope: str, field_: str, move: migrate.Move) -> web.Response:
        claims = self._known(request)
        if not claims.asks_for(self.identity.address, scope):
            raise unauthorized(f"the token does not allow {scope}")
        raw = await self._body(request)
        if isinstance(raw, web.Response):
            return raw
        asked = migrate.read(raw, field_)
        if asked is None:
            return answers.empty(422)
        if not asked.names:
            return answers.empty(400)
        lease = await self.desk.running_lease(claims.owner, asked.dseq, asked.gseq)
        if lease is None:
            return answers.text(400, "destination deployment does not exist")
        if claims.permit(self.identity.address, scope, lease.dseq, lease.gseq, lease.oseq) is None:
            raise unauthorized(f"the token does not allow {scope} here")
        await move(self.desk, lease, asked.names)
        log.info("migrated", what=scope, lease=str(lease), names=len(asked.names))
        return answers.success({"transferred": list(asked.names)})

    # --- rights --------------------------------------------------------------------------------------------------

    def _known(self, request: web.Request) -> Claims:
        claims: Claims | None = request.get(_CLAIMS)
        if claims is None:
            raise unauthorized("no token and no client certificate")
        if not claims.reaches(self.identity.address):
            raise unauthorized("the token is for other providers")
        return claims

    def _known_lease(self, request: web.Request) -> None:
        """What is asked before a query is read."""
        if not self._known(request).knows(self.identity.address, *_lease_numbers(request)):
            raise unauthorized("the token is for other leases")

    def _cover(self, permit: Permit, services: Iterable[str]) -> None:
        if not all(permit.covers(name) for name in services):
            raise unauthorized("the token does not name this service")

    def _lease(self, request: web.Request, scope: str) -> tuple[LeaseId, Permit]:
        """The lease that the path names for whoever asks; a path error only shows to those who may ask at all."""
        claims = self._known(request)
        dseq, gseq, oseq = _lease_numbers(request)
        permit = claims.permit(self.identity.address, scope, dseq, gseq, oseq)
        if permit is None:
            raise unauthorized(f"the token does not allow {scope} here")
        return LeaseId(claims.owner, dseq, gseq, oseq, self.identity.address), permit


class _Visit:
    """A request under the request's limits, which it leaves when it becomes a stream."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._inside = True
        self.limit: asyncio.Timeout | None = None
        gateway.in_flight += 1

    def leave(self) -> None:
        if self._inside:
            self._inside = False
            self._gateway.in_flight -= 1

    def become_stream(self) -> None:
        self.leave()
        if self.limit is not None:
            self.limit.reschedule(None)


_VISIT = web.RequestKey("visit", _Visit)


def _lease_numbers(request: web.Request) -> tuple[int, int, int]:
    path = request.match_info
    gseq, oseq = path_number(path["gseq"], MOST_U32), path_number(path["oseq"], MOST_U32)
    return path_number(path["dseq"], MOST_U64), gseq, oseq


def _authorization(request: web.Request) -> str | None:
    """Two headers are one that cannot be read: nobody may be left to choose between tokens."""
    lines = request.headers.getall("Authorization", [])
    return None if not lines else lines[0] if len(lines) == 1 else ", ".join(lines)


def _certificate(request: web.Request) -> bytes | None:
    secured: ssl.SSLObject | None = request.get_extra_info("ssl_object")
    return secured.getpeercert(binary_form=True) if secured is not None else None
