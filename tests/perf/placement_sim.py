"""A seeded market in memory: orders come, hold their GPUs for a time, and go; what a placement accepts is counted."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gpulease.inventory.amounts import GPU_RESOURCE, Amounts
from gpulease.inventory.devices import Node
from gpulease.inventory.free import NodeFree
from gpulease.inventory.placement import CannotPlace, Placement, need_of
from gpulease.inventory.pools import Pool
from gpulease.market.gpu import GpuKind
from gpulease.market.model import GroupSpec, PlacementRequirements, Resources, ResourceUnit, Storage
from gpulease.units import UACT, Dec, DecCoin

GIB = 1 << 30
KIND = GpuKind("a100", "80Gi", "sxm")
PRICE = DecCoin(UACT, Dec.of(1))
Place = Callable[[GroupSpec, tuple[NodeFree, ...]], Placement | CannotPlace]


@dataclass(frozen=True, slots=True)
class Order:
    """``minutes`` is how long a lease on it lasts."""

    at_minute: int
    minutes: int
    spec: GroupSpec

    @property
    def gpu_minutes(self) -> int:
        return self.spec.gpu_count * self.minutes


def node(name: str, *, gpus: int = 8, cpu: int = 96, memory_gib: int = 768, kind: GpuKind = KIND) -> Node:
    """A node whose CPU and memory are in proportion to its GPUs."""
    pools = (Pool(GPU_RESOURCE, (kind,), gpus),) if gpus else ()
    return Node(name, True, Amounts(cpu * 1000, memory_gib * GIB, 2000 * GIB, gpus), pools)


def group(gpus: int, *, count: int = 1, cpu: int = 8, memory_gib: int = 64) -> GroupSpec:
    resources = Resources(1, cpu * 1000, memory_gib * GIB, (Storage("default", 10 * GIB),), gpus)
    return GroupSpec("g", PlacementRequirements(), (ResourceUnit(resources, count, PRICE),))


def stream(seed: int, *, orders: int, per_hour: float) -> list[Order]:
    """Sizes as clusters see them: most ask for one GPU, whole nodes are rare, some groups have several replicas.

    Some ask for far more CPU or memory than their share of a node.
    """
    random_ = random.Random(seed)
    found, minute = [], 0.0
    for _ in range(orders):
        minute += random_.expovariate(per_hour / 60)
        gpus = random_.choices((0, 1, 2, 4, 8), weights=(12, 45, 18, 13, 12))[0]
        count = random_.choices((1, 2, 4), weights=(85, 10, 5))[0] if gpus <= 4 else 1
        share = random_.choices((0.3, 0.8, 1.6), weights=(35, 50, 15))[0]
        wide = max(gpus, 1)
        cpu, memory = max(round(12 * wide * share), 2), max(round(96 * wide * share), 4)
        spec = group(gpus, count=count, cpu=min(cpu, 90), memory_gib=min(memory, 700))
        found.append(Order(int(minute), int(random_.expovariate(1 / 480)) + 5, spec))
    return found


def accepted_gpu_hours(orders: Iterable[Order], nodes: Iterable[Node], place: Place) -> tuple[float, int]:
    """GPU-hours and number of the orders that found room; raises when a placement takes more than there is."""
    free = {n.name: NodeFree(n, n.allocatable, False) for n in nodes}
    ends: list[tuple[int, int, Mapping[str, Amounts]]] = []
    minutes = won = 0
    for number, order in enumerate(orders):
        while ends and ends[0][0] <= order.at_minute:
            for name, amounts in heapq.heappop(ends)[2].items():
                free[name] = NodeFree(free[name].node, free[name].free + amounts, False)
        found = place(order.spec, tuple(free.values()))
        if isinstance(found, CannotPlace):
            continue
        for name, amounts in found.nodes.items():
            left = free[name].free - amounts
            if left.negative:
                raise AssertionError(f"{name} was given away twice")
            free[name] = NodeFree(free[name].node, left, False)
        heapq.heappush(ends, (order.at_minute + order.minutes, number, found.nodes))
        minutes, won = minutes + order.gpu_minutes, won + 1
    return minutes / 60, won


def first_fit(spec: GroupSpec, free: tuple[NodeFree, ...]) -> Placement | CannotPlace:
    """The peer's rule: each replica goes to the first node, in name order, that has room."""
    left = {entry.node.name: entry.free for entry in free}
    taken: dict[str, Amounts] = {}
    replicas: dict[int, dict[str, int]] = {}
    for unit in spec.resources:
        need = need_of(unit.resources)
        for _ in range(unit.count):
            name = next((n for n, have in left.items() if have.covers(need)), None)
            if name is None:
                return CannotPlace("no room")
            left[name] = left[name] - need
            taken[name] = taken.get(name, Amounts()) + need
            by_node = replicas.setdefault(unit.resources.id, {})
            by_node[name] = by_node.get(name, 0) + 1
    return Placement(replicas, taken)
