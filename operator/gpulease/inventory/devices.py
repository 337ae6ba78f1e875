"""Nodes and pods as numbers: what a node has, what a pod takes.

A node's GPUs come from one source: the slices that NVIDIA's DRA driver publishes, else allocatable ``nvidia.com/*``.
A finished pod takes nothing; init containers count by the scheduler's rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gpulease.inventory.amounts import GPU_RESOURCE, VENDOR_PREFIX, Amounts, amounts_of, sum_amounts
from gpulease.inventory.facts import NodeFacts
from gpulease.inventory.pools import PRODUCT_LABEL, Overrides, Pool, plugin_pools
from gpulease.inventory.slices import Dra, claimed
from gpulease.market.gpu import GpuKind

LEASE_LABEL = "gpulease.dev/lease"

__all__ = [
    "GPU_RESOURCE",
    "LEASE_LABEL",
    "PRODUCT_LABEL",
    "Amounts",
    "Node",
    "PodUse",
    "amounts_of",
    "claim_uses",
    "node_of",
    "pod_use",
    "sum_amounts",
]


@dataclass(frozen=True, slots=True)
class Node:
    """``usable`` False: nothing new may be placed there. ``floor_problem`` says which of its versions is too old."""

    name: str
    usable: bool
    allocatable: Amounts
    pools: tuple[Pool, ...] = ()
    cordoned: bool = False
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    dra: bool = False
    floor_problem: str = ""

    @property
    def sick_gpus(self) -> int:
        """Devices that the plugin or the driver withdrew."""
        return sum(pool.withdrawn for pool in self.pools)

    @property
    def kinds(self) -> tuple[GpuKind, ...]:
        """Every kind that is handed out here."""
        return tuple(sorted({kind for pool in self.pools if pool.allocatable for kind in pool.kinds}))

    @property
    def product(self) -> str:
        """What feature discovery calls the node's GPUs; empty without its label."""
        return self.labels.get(PRODUCT_LABEL, "")

    @property
    def device_total(self) -> int:
        """All devices, withdrawn ones too."""
        return sum(pool.total for pool in self.pools)

    def pool(self, resource: str) -> Pool | None:
        return next((pool for pool in self.pools if pool.resource == resource), None)


@dataclass(frozen=True, slots=True)
class PodUse:
    """What one pod (or claim) holds on its node. ``lease`` is the lease namespace label, empty for other pods."""

    namespace: str
    name: str
    node: str
    amounts: Amounts
    lease: str = ""


def node_of(
    body: Mapping[str, Any],
    *,
    overrides: Overrides | None = None,
    facts: NodeFacts | None = None,
    dra: Dra | None = None,
) -> Node:
    """From a Node object, its agent's facts and the slices published for it."""
    meta, spec, status = body["metadata"], body.get("spec", {}), body.get("status", {})
    name = str(meta["name"])
    labels = {str(k): str(v) for k, v in meta.get("labels", {}).items()}
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions", ()))
    cordoned = bool(spec.get("unschedulable", False))
    blocked = any(t.get("effect") in ("NoSchedule", "NoExecute") for t in spec.get("taints") or ())
    published = dra.pools.get(name) if dra is not None else None
    allocatable = amounts_of(status.get("allocatable", {}))
    if published:
        counts = tuple(sorted((pool.resource, pool.allocatable) for pool in published if pool.allocatable))
        allocatable = replace(allocatable, gpus=0, others=counts)
    pools = published or plugin_pools(
        labels, status.get("allocatable", {}), status.get("capacity", {}), facts=facts, overrides=overrides
    )
    return Node(
        name=name,
        usable=ready and not cordoned and not blocked,
        allocatable=allocatable,
        pools=pools,
        cordoned=cordoned,
        addresses=tuple(str(a["address"]) for a in status.get("addresses", ()) if a.get("type") != "Hostname"),
        pod_cidrs=tuple(str(c) for c in spec.get("podCIDRs") or ()),
        labels=labels,
        versions={str(k): str(v) for k, v in (status.get("nodeInfo") or {}).items() if isinstance(v, str)},
        dra=bool(published),
    )


def pod_use(body: Mapping[str, Any], *, dra_nodes: Iterable[str] = ()) -> PodUse | None:
    """What a pod holds; None for one that is finished or not on a node yet.

    Scheduler's rule: the larger of (all containers with restartable init containers) and each plain init container
    on top of the restartable ones started before it; plus overhead. On ``dra_nodes`` devices are counted by claim.
    """
    spec, status = body.get("spec", {}), body.get("status", {})
    node = spec.get("nodeName")
    if not node or status.get("phase") in ("Succeeded", "Failed"):
        return None
    running = sum_amounts(_requests(c) for c in spec.get("containers", ()))
    sidecars, peak = Amounts(), Amounts()
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars = sidecars + _requests(container)
            peak = peak.most(sidecars)
        else:
            peak = peak.most(sidecars + _requests(container))
    total = (running + sidecars).most(peak) + amounts_of(spec.get("overhead") or {})
    if node in dra_nodes:
        total = replace(total, gpus=0, others=tuple(o for o in total.others if not o[0].startswith(VENDOR_PREFIX)))
    meta = body["metadata"]
    return PodUse(str(meta.get("namespace", "")), str(meta["name"]), str(node), total, _lease(meta))


def claim_uses(body: Mapping[str, Any], dra: Dra) -> list[PodUse]:
    """What a ResourceClaim holds, as if it were a pod without CPU."""
    meta = body["metadata"]
    return [
        PodUse(
            str(meta.get("namespace", "")),
            str(meta["name"]),
            node,
            Amounts(others=tuple(sorted(counts.items()))),
            _lease(meta),
        )
        for node, counts in sorted(claimed(body, dra).items())
    ]


def _lease(meta: Mapping[str, Any]) -> str:
    return str((meta.get("labels") or {}).get(LEASE_LABEL, ""))


def _requests(container: Mapping[str, Any]) -> Amounts:
    resources = container.get("resources") or {}
    merged = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return amounts_of(merged)
