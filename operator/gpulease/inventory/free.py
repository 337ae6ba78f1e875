"""What is free: allocatable minus what pods hold, minus what is reserved, minus what is sick.

A reservation whose pods have been scheduled is not counted twice: per node, the larger of the two is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpulease.inventory.devices import Amounts, Node, PodUse, sum_amounts


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
    """GPUs of the cluster: leased are held by lease pods, reserved by bids without pods yet."""

    total: int = 0
    leased: int = 0
    reserved: int = 0
    free: int = 0
    quarantined: int = 0


def free_capacity(
    nodes: Iterable[Node], pods: Iterable[PodUse], reservations: Iterable[Reservation], *, keep: Amounts | None = None
) -> tuple[NodeFree, ...]:
    """Per node, in name order. ``keep`` is held back on every node for the admin's own use."""
    held_by_node: dict[str, dict[str, Amounts]] = {}
    for pod in pods:
        leases = held_by_node.setdefault(pod.node, {})
        leases[pod.lease] = leases.get(pod.lease, Amounts()) + pod.amounts
    promised: dict[str, dict[str, Amounts]] = {}
    for reservation in reservations:
        for name, amounts in reservation.nodes.items():
            leases = promised.setdefault(name, {})
            leases[reservation.lease] = leases.get(reservation.lease, Amounts()) + amounts
    found = []
    for node in sorted(nodes, key=lambda n: n.name):
        held, ours = held_by_node.get(node.name, {}), promised.get(node.name, {})
        taken = sum_amounts(
            held.get(lease, Amounts()).most(ours.get(lease, Amounts())) if lease else held.get(lease, Amounts())
            for lease in held.keys() | ours.keys()
        )
        left = node.allocatable - taken - (keep or Amounts())
        pods_alone = node.allocatable - sum_amounts(held.values())
        usable = left.floor() if node.usable else Amounts()
        if left.gpus < 0 or pods_alone.negative:
            usable = Amounts() if pods_alone.negative else usable
        found.append(NodeFree(node, usable, pods_alone.negative))
    return tuple(found)


def count_gpus(nodes: Iterable[Node], pods: Iterable[PodUse], reservations: Iterable[Reservation]) -> GpuCount:
    """The cluster's GPUs by what they do."""
    all_nodes, all_pods, all_reservations = tuple(nodes), tuple(pods), tuple(reservations)
    leased = sum(pod.amounts.gpus for pod in all_pods if pod.lease)
    other = sum(pod.amounts.gpus for pod in all_pods if not pod.lease)
    with_pods = {pod.lease for pod in all_pods if pod.lease and pod.amounts.gpus}
    reserved = sum(amounts.gpus for r in all_reservations if r.lease not in with_pods for amounts in r.nodes.values())
    allocatable = sum(node.allocatable.gpus for node in all_nodes)
    sick = sum(node.sick_gpus for node in all_nodes)
    free = max(allocatable - leased - other - reserved, 0)
    return GpuCount(allocatable + sick, leased, reserved, free, sick)
