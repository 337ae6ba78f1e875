"""The provider's stock as of now: nodes, pods and reservations, read at most once a second.

A reservation is a promise made by a bid; it lives in the journal from before the bid is signed until the order is
lost or the lease's workload is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from gpulease.inventory.devices import Amounts, Node, PodUse, node_of, pod_use
from gpulease.inventory.free import GpuCount, NodeFree, Reservation, count_gpus, free_capacity
from gpulease.inventory.placement import Placement
from gpulease.kube.client import Cluster
from gpulease.market.gpu import GpuKind
from gpulease.store.journal import Journal

_KIND = "reservation"
_FRESH_S = 1.0


@dataclass(frozen=True, slots=True)
class Held:
    """A stored reservation: key (the bid's id), the namespace its pods will have, and where its replicas go."""

    key: str
    namespace: str
    nodes: Mapping[str, Amounts]
    replicas: Mapping[int, Mapping[str, int]]

    def nodes_by_resource(self) -> dict[int, tuple[str, ...]]:
        return {rid: tuple(sorted(by_node)) for rid, by_node in self.replicas.items()}


class Reservations:
    """What is promised, by bid id; survives a restart."""

    def __init__(self, journal: Journal, owner: str) -> None:
        self._journal, self._owner = journal, owner

    def hold(self, key: str, namespace: str, placement: Placement) -> None:
        body = {
            "namespace": namespace,
            "nodes": {
                name: [a.cpu_milli, a.memory_bytes, a.ephemeral_bytes, a.gpus] for name, a in placement.nodes.items()
            },
            "replicas": {str(rid): dict(by_node) for rid, by_node in placement.replicas.items()},
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


def _held(key: str, body: dict[str, object]) -> Held:
    nodes, replicas = body["nodes"], body["replicas"]
    assert isinstance(nodes, dict)
    assert isinstance(replicas, dict)
    return Held(
        key,
        str(body["namespace"]),
        {str(name): Amounts(*map(int, parts)) for name, parts in nodes.items()},
        {int(rid): {str(n): int(c) for n, c in by_node.items()} for rid, by_node in replicas.items()},
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Nodes that may be sold and every pod in the cluster, as of one listing."""

    nodes: tuple[Node, ...]
    pods: tuple[PodUse, ...]

    def kinds(self) -> tuple[GpuKind, ...]:
        return tuple(sorted({n.kind for n in self.nodes if n.kind is not None and n.allocatable.gpus > 0}))

    def cluster_ranges(self) -> tuple[str, ...]:
        """Addresses of nodes and pods: closed to tenants."""
        ranges = {f"{a}/{128 if ':' in a else 32}" for n in self.nodes for a in n.addresses}
        return tuple(sorted(ranges | {cidr for n in self.nodes for cidr in n.pod_cidrs}))


class Stock:
    """Raises ``KubeUnreachable`` rather than call an unknown cluster empty."""

    def __init__(
        self, cluster: Cluster, reservations: Reservations, *, selector: Mapping[str, str], keep: Amounts
    ) -> None:
        self._cluster, self._reservations = cluster, reservations
        self._selector, self._keep = dict(selector), keep
        self._snapshot: Snapshot | None = None
        self._read_at_s = 0.0
        self._lock = asyncio.Lock()

    @property
    def reservations(self) -> Reservations:
        return self._reservations

    async def snapshot(self, *, fresh_s: float = _FRESH_S) -> Snapshot:
        """At most ``fresh_s`` old."""
        async with self._lock:
            now_s = asyncio.get_running_loop().time()
            if self._snapshot is None or now_s - self._read_at_s > fresh_s:
                nodes, pods = await asyncio.gather(
                    self._cluster.list("v1", "Node", labels=self._selector or None),
                    self._cluster.list("v1", "Pod"),
                )
                used = (pod_use(body) for body in pods.items)
                self._snapshot = Snapshot(
                    tuple(node_of(body) for body in nodes.items), tuple(u for u in used if u is not None)
                )
                self._read_at_s = now_s
            return self._snapshot

    def last(self, *, most_age_s: float) -> Snapshot | None:
        """What was read last, without reading; None when that is too long ago to be told as news."""
        if self._snapshot is None or asyncio.get_running_loop().time() - self._read_at_s > most_age_s:
            return None
        return self._snapshot

    def count_by_node(self, snapshot: Snapshot) -> list[tuple[Node, GpuCount]]:
        """For each node with GPUs what they do, in name order."""
        pods: dict[str, list[PodUse]] = {}
        for pod in snapshot.pods:
            pods.setdefault(pod.node, []).append(pod)
        promised: dict[str, list[Reservation]] = {}
        for held in self._promised():
            for name, amounts in held.nodes.items():
                promised.setdefault(name, []).append(Reservation(held.key, held.lease, {name: amounts}))
        return [
            (node, count_gpus([node], pods.get(node.name, ()), promised.get(node.name, ())))
            for node in sorted(snapshot.nodes, key=lambda n: n.name)
            if node.capacity_gpus or node.allocatable.gpus
        ]

    def free(self, snapshot: Snapshot) -> tuple[NodeFree, ...]:
        """With the reservations of this very moment."""
        return free_capacity(snapshot.nodes, snapshot.pods, self._promised(), keep=self._keep)

    def count(self, snapshot: Snapshot) -> GpuCount:
        return count_gpus(snapshot.nodes, snapshot.pods, self._promised())

    def _promised(self) -> list[Reservation]:
        return [Reservation(h.key, h.namespace, h.nodes) for h in self._reservations.all()]
