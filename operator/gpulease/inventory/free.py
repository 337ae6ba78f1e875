"""What is free: allocatable minus what pods hold, minus what is reserved, minus what is sick.

A reservation whose pods have been scheduled is not counted twice: per node, the larger of the two is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpulease.inventory.amounts import Amounts, sum_amounts
from gpulease.inventory.devices import Node, PodUse

Blocked = Mapping[str, Mapping[str, int]]
"""Devices held back by node and resource name: in quarantine, but neither withdrawn by the plugin nor in use."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Capacity promised by a bid: amounts by node. ``lease`` is the namespace its pods will have."""

    key: str
    lease: str
    nodes: Mapping[str, Amounts]


@dataclass(frozen=True, slots=True)
class NodeFree:
    """``shortfall`` says that the node holds more than it may: it has nothing free."""

    node: Node
    free: Amounts
    shortfall: bool


@dataclass(frozen=True, slots=True)
class GpuCount:
    """GPUs of the cluster, MIG slices counted each: leased are held by lease pods, reserved by bids without pods."""

    total: int = 0
    leased: int = 0
    reserved: int = 0
    free: int = 0
    quarantined: int = 0


def free_capacity(
    nodes: Iterable[Node],
    pods: Iterable[PodUse],
    reservations: Iterable[Reservation],
    *,
    keep: Amounts | None = None,
    blocked: Blocked | None = None,
) -> tuple[NodeFree, ...]:
    """Per node, in name order. ``keep`` is held back on every node for the admin's own use."""
    held_by_node = _by_node((pod.node, pod.lease, pod.amounts) for pod in pods)
    promised = _by_node((name, r.lease, amounts) for r in reservations for name, amounts in r.nodes.items())
    found = []
    for node in sorted(nodes, key=lambda n: n.name):
        held, ours = held_by_node.get(node.name, {}), promised.get(node.name, {})
        taken = sum_amounts(
            held.get(lease, Amounts()).most(ours.get(lease, Amounts())) if lease else held.get(lease, Amounts())
            for lease in held.keys() | ours.keys()
        )
        sick = _sick(node, (blocked or {}).get(node.name, {}))
        shortfall = (node.allocatable - sum_amounts(held.values())).negative
        left = (node.allocatable - taken - (keep or Amounts()) - sick).floor()
        sold = node.usable and not node.floor_problem and not shortfall
        found.append(NodeFree(node, left if sold else Amounts(), shortfall))
    return tuple(found)


def _by_node(entries: Iterable[tuple[str, str, Amounts]]) -> dict[str, dict[str, Amounts]]:
    found: dict[str, dict[str, Amounts]] = {}
    for node, lease, amounts in entries:
        leases = found.setdefault(node, {})
        leases[lease] = leases.get(lease, Amounts()) + amounts
    return found


def _sick(node: Node, blocked: Mapping[str, int]) -> Amounts:
    """What has to be held back beyond what the plugin has withdrawn by itself."""
    total = Amounts()
    for resource, count in blocked.items():
        pool = node.pool(resource)
        more = count - (pool.withdrawn if pool is not None else 0)
        if more > 0:
            total = total + Amounts().with_devices(resource, more)
    return total


def count_gpus(
    nodes: Iterable[Node],
    pods: Iterable[PodUse],
    reservations: Iterable[Reservation],
    *,
    blocked: Blocked | None = None,
) -> GpuCount:
    """The cluster's GPUs by what they do. Free is what the next order could get, sold pools only."""
    all_nodes, all_pods, all_reservations = tuple(nodes), tuple(pods), tuple(reservations)
    leased = sum(pod.amounts.devices for pod in all_pods if pod.lease)
    with_pods = {pod.lease for pod in all_pods if pod.lease and pod.amounts.devices}
    reserved = sum(a.devices for r in all_reservations if r.lease not in with_pods for a in r.nodes.values())
    allocatable = sum(node.allocatable.devices for node in all_nodes)
    withdrawn = sum(node.sick_gpus for node in all_nodes)
    held_back = sum(_sick(node, (blocked or {}).get(node.name, {})).devices for node in all_nodes)
    free = 0
    for entry in free_capacity(all_nodes, all_pods, all_reservations, blocked=blocked):
        free += sum(entry.free.of(pool.resource) for pool in entry.node.pools if pool.kinds)
    return GpuCount(allocatable + withdrawn, leased, reserved, free, withdrawn + held_back)
