"""Nodes and pods as numbers: what a node has, what a pod takes.

A node's GPUs come from one source: today allocatable ``nvidia.com/gpu``, described by GFD's labels and, per device, by
the node agent. A finished pod takes nothing; init containers count by the scheduler's rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpulease.inventory.quantity import milli, whole
from gpulease.market.gpu import GpuKind, kind_of_product

GPU_RESOURCE = "nvidia.com/gpu"
PRODUCT_LABEL = "nvidia.com/gpu.product"
LEASE_LABEL = "gpulease.dev/lease"


@dataclass(frozen=True, slots=True)
class Amounts:
    """CPU, memory, ephemeral storage and whole GPUs."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    ephemeral_bytes: int = 0
    gpus: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.cpu_milli + other.cpu_milli,
            self.memory_bytes + other.memory_bytes,
            self.ephemeral_bytes + other.ephemeral_bytes,
            self.gpus + other.gpus,
        )

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.cpu_milli - other.cpu_milli,
            self.memory_bytes - other.memory_bytes,
            self.ephemeral_bytes - other.ephemeral_bytes,
            self.gpus - other.gpus,
        )

    def __mul__(self, times: int) -> Amounts:
        return Amounts(
            self.cpu_milli * times, self.memory_bytes * times, self.ephemeral_bytes * times, self.gpus * times
        )

    def most(self, other: Amounts) -> Amounts:
        return Amounts(
            max(self.cpu_milli, other.cpu_milli),
            max(self.memory_bytes, other.memory_bytes),
            max(self.ephemeral_bytes, other.ephemeral_bytes),
            max(self.gpus, other.gpus),
        )

    def floor(self) -> Amounts:
        """Nothing below zero: an over-full node has nothing free, not a huge amount."""
        return self.most(Amounts())

    def covers(self, need: Amounts) -> bool:
        return (
            self.cpu_milli >= need.cpu_milli
            and self.memory_bytes >= need.memory_bytes
            and self.ephemeral_bytes >= need.ephemeral_bytes
            and self.gpus >= need.gpus
        )

    @property
    def negative(self) -> bool:
        return min(self.cpu_milli, self.memory_bytes, self.ephemeral_bytes, self.gpus) < 0


@dataclass(frozen=True, slots=True)
class Node:
    """``kind`` is the one GPU kind of the node, None without GPUs or for a product the table does not know."""

    name: str
    usable: bool
    allocatable: Amounts
    capacity_gpus: int = 0
    kind: GpuKind | None = None
    product: str = ""
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def sick_gpus(self) -> int:
        """GPUs the plugin withdrew: in capacity, not in allocatable."""
        return max(self.capacity_gpus - self.allocatable.gpus, 0)


@dataclass(frozen=True, slots=True)
class PodUse:
    """What one pod holds on its node. ``lease`` is the lease namespace label, empty for other pods."""

    namespace: str
    name: str
    node: str
    amounts: Amounts
    lease: str = ""


def amounts_of(raw: Mapping[str, Any]) -> Amounts:
    return Amounts(
        milli(raw.get("cpu", 0)),
        whole(raw.get("memory", 0)),
        whole(raw.get("ephemeral-storage", 0)),
        whole(raw.get(GPU_RESOURCE, 0)),
    )


def node_of(body: Mapping[str, Any], *, overrides: Mapping[str, GpuKind] | None = None) -> Node:
    """From a Node object."""
    meta, spec, status = body["metadata"], body.get("spec", {}), body.get("status", {})
    labels = {str(k): str(v) for k, v in meta.get("labels", {}).items()}
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions", ()))
    blocked = any(t.get("effect") in ("NoSchedule", "NoExecute") for t in spec.get("taints") or ())
    product = labels.get(PRODUCT_LABEL, "")
    return Node(
        name=str(meta["name"]),
        usable=ready and not spec.get("unschedulable", False) and not blocked,
        allocatable=amounts_of(status.get("allocatable", {})),
        capacity_gpus=whole(status.get("capacity", {}).get(GPU_RESOURCE, 0)),
        kind=kind_of_product(product, overrides=overrides) if product else None,
        product=product,
        addresses=tuple(str(a["address"]) for a in status.get("addresses", ()) if a.get("type") != "Hostname"),
        pod_cidrs=tuple(str(c) for c in spec.get("podCIDRs") or ()),
        labels=labels,
    )


def pod_use(body: Mapping[str, Any]) -> PodUse | None:
    """What a pod holds; None for one that is finished or not on a node yet.

    Scheduler's rule: the larger of (all containers with restartable init containers) and each plain init container
    on top of the restartable ones started before it; plus overhead.
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
    meta = body["metadata"]
    lease = str((meta.get("labels") or {}).get(LEASE_LABEL, ""))
    return PodUse(str(meta.get("namespace", "")), str(meta["name"]), str(node), total, lease)


def _requests(container: Mapping[str, Any]) -> Amounts:
    resources = container.get("resources") or {}
    merged = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return amounts_of(merged)


def sum_amounts(parts: Iterable[Amounts]) -> Amounts:
    total = Amounts()
    for part in parts:
        total = total + part
    return total
