"""The provider's stock as of now: nodes, pods and reservations, read at most once a second.

A reservation is a promise made by a bid; it lives in the journal from before the bid is signed until the order is
lost or the lease's workload is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

from gpulease.errors import KubeError
from gpulease.inventory import floor
from gpulease.inventory.devices import (
    GPU_RESOURCE,
    Amounts,
    Node,
    PodUse,
    claim_uses,
    node_of,
    pod_use,
    sum_amounts,
)
from gpulease.inventory.facts import NodeFacts
from gpulease.inventory.free import Blocked, GpuCount, NodeFree, Reservation, count_gpus, free_capacity
from gpulease.inventory.placement import NO_OVERCOMMIT, Grant, Overcommit, Placement
from gpulease.inventory.pools import narrowed
from gpulease.inventory.slices import Dra, read_slices
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Json
from gpulease.market.gpu import GpuKind
from gpulease.runtime.specs import ProviderSpec
from gpulease.store.journal import Journal

_KIND = "reservation"
_FRESH_S = 1.0
_DRA_API = "resource.k8s.io/v1"
_DRA_AGAIN_S = 300.0
"""A cluster without the API is asked again after this time: it may be upgraded."""


@dataclass(frozen=True, slots=True)
class Held:
    """A stored reservation: key (the bid's id), the namespace its pods will have, and where its replicas go.

    ``grants`` and ``overcommit`` are as of the bid: what a lease was promised does not change under it.
    """

    key: str
    namespace: str
    nodes: Mapping[str, Amounts]
    replicas: Mapping[int, Mapping[str, int]]
    grants: Mapping[int, Grant] = field(default_factory=dict)
    overcommit: Overcommit = NO_OVERCOMMIT

    def nodes_by_resource(self) -> dict[int, tuple[str, ...]]:
        return {rid: tuple(sorted(by_node)) for rid, by_node in self.replicas.items()}


class Reservations:
    """What is promised, by bid id; survives a restart."""

    def __init__(self, journal: Journal, owner: str) -> None:
        self._journal, self._owner = journal, owner

    def hold(self, key: str, namespace: str, placement: Placement) -> None:
        body = {
            "namespace": namespace,
            "nodes": {name: amounts.to_json() for name, amounts in placement.nodes.items()},
            "replicas": {str(rid): dict(by_node) for rid, by_node in placement.replicas.items()},
            "grants": {str(rid): [g.resource, g.device_class, g.selector] for rid, g in placement.grants.items()},
            "overcommit": [placement.overcommit.cpu_percent, placement.overcommit.memory_percent],
        }
        self._journal.put(_KIND, key, body, owner=self._owner)

    def get(self, key: str) -> Held | None:
        body = self._journal.get(_KIND, key)
        return None if body is None else _held(key, body)

    def release(self, key: str) -> bool:
        if self._journal.get(_KIND, key) is None:
            return False
        self._journal.delete(_KIND, key)
        return True

    def mark_leased(self, key: str) -> None:
        """The bid has won: the reservation is the lease's now and no open bid any more."""
        body = self._journal.get(_KIND, key)
        if body is not None and not body.get("leased"):
            self._journal.put(_KIND, key, {**body, "leased": True}, owner=self._owner)

    def open_count(self) -> int:
        """Bids that may still win."""
        return sum(not body.get("leased") for _, body in self._journal.list_open(_KIND, owner=self._owner))

    def all(self) -> list[Held]:
        return [_held(key, body) for key, body in self._journal.list_open(_KIND, owner=self._owner)]


def _held(key: str, body: dict[str, Any]) -> Held:
    return Held(
        key,
        str(body["namespace"]),
        {str(name): Amounts.from_json(parts) for name, parts in body["nodes"].items()},
        {int(rid): {str(n): int(c) for n, c in by_node.items()} for rid, by_node in body["replicas"].items()},
        {int(rid): Grant(*map(str, parts)) for rid, parts in body.get("grants", {}).items()},
        Overcommit(*map(int, body.get("overcommit", ()))),
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Nodes that may be sold and every pod in the cluster, as of one listing.

    ``all_kinds`` are those of all devices, also of ones in use; ``unknown_versions`` is what nodes do not tell of
    the floor's list, ``old_versions`` what is below it, both by node. ``dra_forbidden``: slices may not be read.
    """

    nodes: tuple[Node, ...]
    pods: tuple[PodUse, ...]
    unknown_versions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    old_versions: Mapping[str, str] = field(default_factory=dict)
    all_kinds: tuple[GpuKind, ...] = ()
    dra_forbidden: bool = False

    def kinds(self) -> tuple[GpuKind, ...]:
        return self.all_kinds

    def cluster_ranges(self) -> tuple[str, ...]:
        """Addresses of nodes and pods: closed to tenants."""
        ranges = {f"{a}/{128 if ':' in a else 32}" for n in self.nodes for a in n.addresses}
        return tuple(sorted(ranges | {cidr for n in self.nodes for cidr in n.pod_cidrs}))


class DeviceBook(Protocol):
    """What is known of single devices; :class:`gpulease.runtime.health.DeviceHealth`."""

    @property
    def facts(self) -> Mapping[str, NodeFacts]: ...

    @property
    def sick(self) -> frozenset[str]:
        """UUIDs in quarantine."""
        ...

    def held(self) -> frozenset[str]:
        """UUIDs that leases hold, as far as usage records tell."""
        ...


class NothingKnown:
    """For who has no health records: every device is taken to be well, and none is known by name."""

    facts: Mapping[str, NodeFacts] = MappingProxyType({})
    sick: frozenset[str] = frozenset()

    def held(self) -> frozenset[str]:
        return frozenset()


class Stock:
    """Raises ``KubeUnreachable`` rather than call an unknown cluster empty."""

    def __init__(
        self, cluster: Cluster, reservations: Reservations, *, spec: ProviderSpec, devices: DeviceBook
    ) -> None:
        self._cluster, self._reservations = cluster, reservations
        self._spec, self._devices = spec, devices
        self._keep = Amounts(spec.reserve_cpu_milli, spec.reserve_memory_bytes)
        self._snapshot: Snapshot | None = None
        self._read_at_s = 0.0
        self._no_dra_until_s = 0.0
        self._dra_forbidden = False
        self._lock = asyncio.Lock()

    @property
    def reservations(self) -> Reservations:
        return self._reservations

    async def snapshot(self, *, fresh_s: float = _FRESH_S) -> Snapshot:
        """At most ``fresh_s`` old."""
        async with self._lock:
            now_s = asyncio.get_running_loop().time()
            if self._snapshot is None or now_s - self._read_at_s > fresh_s:
                nodes, pods, (slices, claims) = await asyncio.gather(
                    self._cluster.list("v1", "Node", labels=dict(self._spec.node_selector) or None),
                    self._cluster.list("v1", "Pod"),
                    self._dra(now_s),
                )
                self._snapshot = self._read(nodes.items, pods.items, slices, claims)
                self._read_at_s = now_s
            return self._snapshot

    def last(self, *, most_age_s: float) -> Snapshot | None:
        """What was read last, without reading; None when that is too long ago to be told as news."""
        if self._snapshot is None or asyncio.get_running_loop().time() - self._read_at_s > most_age_s:
            return None
        return self._snapshot

    def count_by_node(self, snapshot: Snapshot) -> list[tuple[Node, GpuCount]]:
        """For each node with GPUs what they do, in name order."""
        blocked = self._blocked(snapshot)
        pods: dict[str, list[PodUse]] = {}
        for pod in snapshot.pods:
            pods.setdefault(pod.node, []).append(pod)
        promised: dict[str, list[Reservation]] = {}
        for held in self._promised():
            for name, amounts in held.nodes.items():
                promised.setdefault(name, []).append(Reservation(held.key, held.lease, {name: amounts}))
        return [
            (node, count_gpus([node], pods.get(node.name, ()), promised.get(node.name, ()), blocked=blocked))
            for node in sorted(snapshot.nodes, key=lambda n: n.name)
            if node.device_total
        ]

    async def _dra(self, now_s: float) -> tuple[tuple[Json, ...], tuple[Json, ...]]:
        """Slices and claims; none where the cluster does not serve the API. Claims only matter beside slices."""
        if now_s < self._no_dra_until_s:
            return (), ()
        try:
            slices = (await self._cluster.list(_DRA_API, "ResourceSlice")).items
        except KubeError as error:
            if error.status not in (403, 404):
                raise
            # No right to look is not the same as nothing there: the provider's condition says so.
            self._dra_forbidden = error.status == 403
            self._no_dra_until_s = now_s + _DRA_AGAIN_S
            return (), ()
        self._dra_forbidden = False
        if not slices:
            return (), ()
        return slices, (await self._cluster.list(_DRA_API, "ResourceClaim")).items

    def _read(
        self, nodes: tuple[Json, ...], pods: tuple[Json, ...], slices: tuple[Json, ...], claims: tuple[Json, ...]
    ) -> Snapshot:
        overrides, facts = self._spec.gpu_overrides, self._devices.facts
        dra = read_slices(slices, overrides=overrides, quarantined=self._devices.sick) if slices else Dra()
        used = [use for body in pods if (use := pod_use(body, dra_nodes=dra.pools.keys())) is not None]
        used += [use for body in claims for use in claim_uses(body, dra)]
        held, in_use = self._devices.held(), _gpus_in_use(used)
        read, unknown, old = [], {}, {}
        kinds: set[GpuKind] = set()
        for body in nodes:
            node_facts = facts.get(str(body["metadata"]["name"]))
            node = node_of(body, overrides=overrides, facts=node_facts, dra=dra)
            kinds |= set(node.kinds)
            verdict = floor.check(node, node_facts, require_known=self._spec.require_known_versions)
            if verdict.unknown:
                unknown[node.name] = verdict.unknown
            if verdict.problem:
                old[node.name] = verdict.problem
            pools = tuple(
                narrowed(pool, node_facts, held, in_use=in_use.get(node.name, 0), overrides=overrides)
                if pool.resource == GPU_RESOURCE and len(pool.kinds) > 1 and not self._promised_on(node.name, used)
                else pool
                for pool in node.pools
            )
            read.append(replace(node, pools=pools, floor_problem=verdict.problem if self._spec.enforce_floor else ""))
        return Snapshot(tuple(read), tuple(used), unknown, old, tuple(sorted(kinds)), self._dra_forbidden)

    def _promised_on(self, node: str, used: list[PodUse]) -> bool:
        """Whether a reservation waits for pods on the node: nobody knows yet which device they will get."""
        with_pods = {use.lease for use in used if use.lease and use.node == node}
        return any(node in h.nodes and h.namespace not in with_pods for h in self._reservations.all())

    def free(self, snapshot: Snapshot) -> tuple[NodeFree, ...]:
        """With the reservations of this very moment."""
        return free_capacity(
            snapshot.nodes, snapshot.pods, self._promised(), keep=self._keep, blocked=self._blocked(snapshot)
        )

    def count(self, snapshot: Snapshot) -> GpuCount:
        return count_gpus(snapshot.nodes, snapshot.pods, self._promised(), blocked=self._blocked(snapshot))

    def _promised(self) -> list[Reservation]:
        return [Reservation(h.key, h.namespace, h.nodes) for h in self._reservations.all()]

    def _blocked(self, snapshot: Snapshot) -> Blocked:
        """Sick devices that nobody holds, by node and resource; with DRA the slices leave them out already."""
        held, sick = self._devices.held(), self._devices.sick
        found: dict[str, dict[str, int]] = {}
        for node in snapshot.nodes:
            facts = self._devices.facts.get(node.name)
            if facts is None or node.dra:
                continue
            for device in facts.devices:
                if device.uuid not in sick:
                    continue
                counts = found.setdefault(node.name, {})
                if not device.mig_enabled and device.uuid not in held:
                    counts[GPU_RESOURCE] = counts.get(GPU_RESOURCE, 0) + 1
                idle = sum(uuid not in held for uuid in device.mig)
                for pool in node.pools:
                    # Which profile an instance has is not told: none of them may be sold too often.
                    if idle and (pool.resource != GPU_RESOURCE or any(k.is_slice for k in pool.kinds)):
                        counts[pool.resource] = counts.get(pool.resource, 0) + idle
        return found


def _gpus_in_use(used: list[PodUse]) -> dict[str, int]:
    by_node: dict[str, list[Amounts]] = {}
    for use in used:
        by_node.setdefault(use.node, []).append(use.amounts)
    return {node: sum_amounts(amounts).gpus for node, amounts in by_node.items()}
