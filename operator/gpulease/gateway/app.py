"""The provider's HTTPS face: routes, order of checks, limits (gateway reference §0, §1).

Differences from the peer, all on the safe side: service status asks for the scope ``status``; a token's list of
services is enforced; an unreachable chain is 503 and never "unknown account"; bodies, time and concurrency are bounded.
"""

from __future__ import annotations

import asyncio
import platform
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from weakref import WeakSet

import structlog
from aiohttp import web

from gpulease import __version__
from gpulease.errors import ChainError, ChainMismatch, ConfigError, KubeError, KubeNotFound, Unreachable
from gpulease.gateway import answers, manifests, report
from gpulease.gateway.auth import Authenticator, Refused, unauthorized
from gpulease.gateway.jwt import Claims, Permit
from gpulease.gateway.manifests import ManifestStore, NotTaken
from gpulease.gateway.ports import ChainPort, ClusterPort
from gpulease.ids import DeploymentId, LeaseId
from gpulease.kube.refs import Json
from gpulease.workload import manifest
from gpulease.workload.model import ManifestGroup
from gpulease.workload.names import lease_namespace
from gpulease.workload.objects import SERVICE_LABEL

log = structlog.get_logger(__name__)
_MOST_U64 = 2**64 - 1
_MOST_U32 = 2**32 - 1
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


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose gateway this is. ``namespace`` is the operator's; ``host`` the public name for node ports."""

    address: str
    namespace: str
    host: str = ""


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
        self._chain = chain
        self._cluster = cluster
        self._now_s = now_s
        self._store = ManifestStore(cluster, namespace=identity.namespace)
        self._auth = Authenticator(chain, now_s=now_s)
        self._status: tuple[float, Json] | None = None
        self._status_lock = asyncio.Lock()

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
        self.in_flight += 1
        try:
            async with asyncio.timeout(self.limits.request_s):
                return await self._answered(request, handler)
        except TimeoutError:
            return answers.text(503, f"no answer within {self.limits.request_s:.0f} s; try again")
        finally:
            self.in_flight -= 1

    async def _answered(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            claims = await self._auth.identify(request.headers.get("Authorization"), _certificate(request))
            if claims is not None:
                request[_CLAIMS] = claims
            return await handler(request)
        except Refused as error:
            log.info("request_refused", path=request.path, status=error.status, why=error.why)
            return answers.message(error.status, error.message)
        except NotTaken as error:
            log.info("manifest_refused", path=request.path, status=error.status, why=str(error))
            return answers.text(error.status, str(error))
        except _BadPath as error:
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
        except (asyncio.CancelledError, TimeoutError, web.HTTPException):
            raise
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
        """Anyone may ask, so it is worked out once for many."""
        async with self._status_lock:
            if self._status is None or self._now_s() - self._status[0] > self.limits.status_age_s:
                self._status = (self._now_s(), await self._gather_status())
            return answers.success(self._status[1])

    async def _gather_status(self) -> Json:
        kept = await self._store.all()
        nodes, pods = await asyncio.gather(self._cluster.list("v1", "Node"), self._cluster.list("v1", "Pod"))
        leases = await self._chain.leases(provider=self.identity.address, state="active")
        groups = [group for group in map(manifests.kept_group, kept) if group is not None]
        return report.provider_status(
            address=self.identity.address,
            host=self.identity.host,
            groups=groups,
            deployments=len({lease.id.deployment for lease in leases}),
            leases=len(leases),
            nodes=nodes.items,
            pods=pods.items,
        )

    # --- manifests -----------------------------------------------------------------------------------------------

    async def _put_manifest(self, request: web.Request) -> web.Response:
        claims = self._known(request)
        dseq = _number(request, "dseq", _MOST_U64)
        if claims.permit(self.identity.address, "send-manifest", dseq) is None:
            raise unauthorized("the token does not allow send-manifest")
        raw = await self._body(request)
        if isinstance(raw, web.Response):
            return raw
        id_ = DeploymentId(claims.owner, dseq)
        count = await manifests.take_in(raw, id_, provider=self.identity.address, chain=self._chain, store=self._store)
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
            return answers.text(413, f"the manifest is larger than {limit} bytes; make it smaller")

    async def _get_manifest(self, request: web.Request) -> web.Response:
        lease, permit = self._lease(request, "get-manifest")
        group = await self._store.group(lease)
        if group is None:
            return answers.text(404, "lease not found")
        services = tuple(s for s in group.services if permit.covers(s.name))
        return answers.success([manifest.read_back(ManifestGroup(group.name, services))])

    # --- status --------------------------------------------------------------------------------------------------

    async def _lease_status(self, request: web.Request) -> web.Response:
        lease, permit = self._lease(request, "status")
        group = await self._store.group(lease)
        if group is None:
            return answers.empty(404)
        namespace = lease_namespace(lease)
        workloads = await self._workloads(namespace)
        if not workloads:
            return answers.text(404, "kube: no deployments for lease")
        ports = await self._cluster.list("v1", "Service", namespace=namespace, labels=SERVICE_LABEL)
        body = report.lease_status(group, workloads, ports.items, host=self.identity.host)
        return answers.success(body if permit.services is None else report.only(body, permit.services))

    async def _service_status(self, request: web.Request) -> web.Response:
        lease, permit = self._lease(request, "status")
        name = request.match_info["service"]
        if not permit.covers(name):
            raise unauthorized("the token does not name this service")
        workloads = await self._workloads(lease_namespace(lease))
        found = next((body for body in workloads if report.workload_name(body) == name), None)
        if found is None:
            return answers.text(404, "kube: no service for that lease" if workloads else "kube: lease not found")
        return answers.success(report.service_status(found))

    async def _workloads(self, namespace: str) -> list[Json]:
        found = await asyncio.gather(
            *(
                self._cluster.list("apps/v1", kind, namespace=namespace, labels=SERVICE_LABEL)
                for kind in ("Deployment", "StatefulSet")
            )
        )
        return [body for listing in found for body in listing.items]

    # --- rights --------------------------------------------------------------------------------------------------

    def _known(self, request: web.Request) -> Claims:
        claims: Claims | None = request.get(_CLAIMS)
        if claims is None:
            raise unauthorized("no token and no client certificate")
        if not claims.reaches(self.identity.address):
            raise unauthorized("the token is for other providers")
        return claims

    def _lease(self, request: web.Request, scope: str) -> tuple[LeaseId, Permit]:
        """The lease that the path names for whoever asks; a path error only shows to those who may ask at all."""
        claims = self._known(request)
        dseq = _number(request, "dseq", _MOST_U64)
        gseq, oseq = _number(request, "gseq", _MOST_U32), _number(request, "oseq", _MOST_U32)
        permit = claims.permit(self.identity.address, scope, dseq, gseq, oseq)
        if permit is None:
            raise unauthorized(f"the token does not allow {scope} here")
        return LeaseId(claims.owner, dseq, gseq, oseq, self.identity.address), permit


class _BadPath(ValueError):
    """The text is the one that clients of the peer see."""


def _number(request: web.Request, name: str, most: int) -> int:
    text = request.match_info[name]
    if not (text.isascii() and text.isdecimal()):
        raise _BadPath(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if len(text) > 40 or int(text) > most:
        raise _BadPath(f'strconv.ParseUint: parsing "{text}": value out of range')
    return int(text)


def _certificate(request: web.Request) -> bytes | None:
    secured: ssl.SSLObject | None = request.get_extra_info("ssl_object")
    return secured.getpeercert(binary_form=True) if secured is not None else None
