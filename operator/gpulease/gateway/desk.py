"""What the gateway can say and do about leases, apart from how it is asked: REST and gRPC both come here."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gpulease.errors import KubeNotFound
from gpulease.gateway import hosts, manifests, report
from gpulease.gateway.jwt import Permit
from gpulease.gateway.manifests import ManifestStore
from gpulease.gateway.ports import ChainPort, ClusterPort
from gpulease.ids import DeploymentId, LeaseId
from gpulease.kube.refs import Json
from gpulease.workload.model import ManifestGroup
from gpulease.workload.names import lease_namespace
from gpulease.workload.objects import SERVICE_LABEL

_MOST_NAMESPACES = 1000


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose gateway this is. ``namespace`` is the operator's; ``host`` the public name for node ports.

    ``blocked_hosts`` are host names that no tenant may ask for; with a leading dot, all names under it.
    """

    address: str
    namespace: str
    host: str = ""
    blocked_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Running:
    """A lease's workloads (Deployments and StatefulSets) and pods, at one moment."""

    workloads: tuple[Json, ...]
    pods: tuple[Json, ...]

    def of(self, service: str) -> list[Json]:
        """The service's pods by name."""
        return sorted((p for p in self.pods if report.workload_name(p) == service), key=_name)


def _name(body: Json) -> str:
    return str(body["metadata"]["name"])


@dataclass(slots=True)
class _Look:
    """The last look at one lease; who comes while it is under way waits for it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    at_s: float = 0.0
    found: Running | None = None


class NoWorkloads(KubeNotFound):
    """The lease is unknown here, or nothing of it runs."""

    def __init__(self) -> None:
        super().__init__(404, "NotFound", "no deployments for lease")


class Desk:
    """Reads the cluster as it is; what many ask for at once is read once (``status_age_s``, ``pods_age_s``)."""

    def __init__(
        self,
        identity: Identity,
        *,
        chain: ChainPort,
        cluster: ClusterPort,
        now_s: Callable[[], float],
        status_age_s: float,
        pods_age_s: float,
    ) -> None:
        self.identity = identity
        self.cluster = cluster
        self._chain = chain
        self._now_s = now_s
        self._status_age_s = status_age_s
        self._pods_age_s = pods_age_s
        self._store = ManifestStore(cluster, namespace=identity.namespace)
        self._status: tuple[float, Json] | None = None
        self._status_lock = asyncio.Lock()
        self._looks: OrderedDict[str, _Look] = OrderedDict()
        self._hosts_lock = asyncio.Lock()

    # --- the provider --------------------------------------------------------------------------------------------

    async def provider_status(self) -> Json:
        """Anyone may ask, so it is worked out once for many."""
        async with self._status_lock:
            if self._status is None or self._now_s() - self._status[0] > self._status_age_s:
                self._status = (self._now_s(), await self._gather_status())
            return self._status[1]

    async def _gather_status(self) -> Json:
        kept = await self._store.all()
        nodes, pods = await asyncio.gather(self.cluster.list("v1", "Node"), self.cluster.list("v1", "Pod"))
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

    # --- manifests and host names --------------------------------------------------------------------------------

    async def take_manifest(self, raw: bytes, id_: DeploymentId) -> int:
        """The number of leases that it is for; ``NotTaken`` or an ``Unreachable`` otherwise."""
        async with self._hosts_lock:
            return await manifests.take_in(
                raw,
                id_,
                provider=self.identity.address,
                chain=self._chain,
                store=self._store,
                blocked_hosts=self.identity.blocked_hosts,
            )

    async def group(self, lease: LeaseId) -> ManifestGroup | None:
        return await self._store.group(lease)

    async def running_lease(self, owner: str, dseq: int, gseq: int) -> LeaseId | None:
        """The owner's active lease here of a deployment's group, when its manifest is here too."""
        found = await self._chain.leases(owner=owner, dseq=dseq, provider=self.identity.address, state="active")
        lease = next((entry.id for entry in found if entry.id.gseq == gseq), None)
        return lease if lease is not None and await self._store.group(lease) is not None else None

    async def move_hosts(self, names: Sequence[str], lease: LeaseId) -> None:
        """Give ``lease`` the host names, from other leases of its owner; ``HostRefused`` when it may not have one."""
        async with self._hosts_lock:
            kept = manifests.kept_entries(await self._store.all())
            for changed in hosts.move(kept, lease, names):
                await self._store.hold(changed)

    # --- leases --------------------------------------------------------------------------------------------------

    async def lease_status(self, lease: LeaseId, permit: Permit) -> Json | None:
        """None without a manifest; ``NoWorkloads`` before the operator has made anything of it."""
        group = await self._store.group(lease)
        if group is None:
            return None
        namespace = lease_namespace(lease)
        workloads = await self.workloads(namespace)
        if not workloads:
            raise NoWorkloads
        ports = await self.cluster.list("v1", "Service", namespace=namespace, labels=SERVICE_LABEL)
        body = report.lease_status(group, workloads, ports.items, host=self.identity.host)
        return body if permit.services is None else report.only(body, permit.services)

    async def service_status(self, lease: LeaseId, name: str) -> Json:
        """``KubeNotFound`` says whether the lease or only the service is unknown."""
        workloads = await self.workloads(lease_namespace(lease))
        found = next((body for body in workloads if report.workload_name(body) == name), None)
        if found is None:
            raise KubeNotFound(404, "NotFound", "no service for that lease" if workloads else "lease not found")
        return report.with_hosts_of(report.service_status(found), workloads)

    async def workloads(self, namespace: str) -> list[Json]:
        found = await asyncio.gather(
            *(
                self.cluster.list("apps/v1", kind, namespace=namespace, labels=SERVICE_LABEL)
                for kind in ("Deployment", "StatefulSet")
            )
        )
        return [body for listing in found for body in listing.items]

    async def running(self, namespace: str) -> Running:
        """Shared by all who follow the same lease, so that their number does not reach the API server."""
        look = self._looks.setdefault(namespace, _Look())
        self._looks.move_to_end(namespace)
        if len(self._looks) > _MOST_NAMESPACES:
            self._looks.popitem(last=False)
        async with look.lock:
            if look.found is None or self._now_s() - look.at_s >= self._pods_age_s:
                workloads, pods = await asyncio.gather(
                    self.workloads(namespace), self.cluster.list("v1", "Pod", namespace=namespace, labels=SERVICE_LABEL)
                )
                look.found, look.at_s = Running(tuple(workloads), pods.items), self._now_s()
            return look.found
