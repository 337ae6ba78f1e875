"""GPU-hours accepted by our placement and by first fit, over the same seeded streams of orders."""

from __future__ import annotations

import time

import pytest

from gpulease.inventory.devices import PodUse
from gpulease.inventory.free import NodeFree, Reservation, free_capacity
from gpulease.inventory.placement import Placement, place
from tests.perf.placement_sim import accepted_gpu_hours, first_fit, group, node, stream

pytestmark = pytest.mark.perf
SEEDS = range(1, 7)
NODES = tuple(node(f"n{i:02}") for i in range(12)) + tuple(
    node(f"cpu{i}", gpus=0, cpu=64, memory_gib=256) for i in range(2)
)
MOST_MS_PER_ORDER = 50


def test_more_gpu_hours_are_accepted_than_by_first_fit() -> None:
    ours = theirs = 0.0
    for seed in SEEDS:
        orders = stream(seed, orders=600, per_hour=9)
        own, own_won = accepted_gpu_hours(orders, NODES, place)
        first, first_won = accepted_gpu_hours(orders, NODES, first_fit)
        asked = sum(order.gpu_minutes for order in orders) / 60
        print(
            f"placement, seed {seed}: {own:.0f} GPU-hours in {own_won} leases; first fit {first:.0f} in {first_won}; "
            f"asked {asked:.0f}"
        )
        ours, theirs = ours + own, theirs + first
    print(f"placement, all seeds: {ours:.0f} GPU-hours accepted, first fit {theirs:.0f} ({ours / theirs - 1:+.1%})")
    assert ours > theirs


def test_an_order_is_placed_fast_in_a_large_cluster() -> None:
    free = tuple(entry for entry in _free(200))
    began = time.process_time()
    for _ in range(20):
        place(group(8), free)
    ms = (time.process_time() - began) * 1000 / 20
    print(f"placement among 200 nodes: {ms:.1f} ms per order (bar {MOST_MS_PER_ORDER} ms)")
    assert ms <= MOST_MS_PER_ORDER


def _free(count: int) -> tuple[NodeFree, ...]:
    return free_capacity([node(f"n{i:03}") for i in range(count)], [], [])


def test_a_thousand_leases_fill_two_hundred_nodes_and_leave_nothing_behind() -> None:
    """1,600 GPUs, 1,000 leases of one or two: all placed, none where there is no room, and all room comes back."""
    nodes = [node(f"n{i:03}") for i in range(200)]
    left = {entry.node.name: entry for entry in free_capacity(nodes, [], [])}
    held: list[Reservation] = []
    began = time.process_time()
    for number in range(1000):
        found = place(group(2 if number % 5 < 3 else 1, cpu=4, memory_gib=32), tuple(left.values()))
        assert isinstance(found, Placement)
        held.append(Reservation(f"k{number}", f"ns-{number}", found.nodes))
        for name, amounts in found.nodes.items():
            left[name] = NodeFree(left[name].node, left[name].free - amounts, False)
            assert not left[name].free.negative
    spent_s = time.process_time() - began
    pods = [PodUse(r.lease, "p", name, amounts, r.lease) for r in held for name, amounts in r.nodes.items()]
    assert [e.free for e in free_capacity(nodes, pods, held)] == [left[n.name].free for n in nodes]
    assert sum(e.free.gpus for e in left.values()) == 0
    assert [e.free for e in free_capacity(nodes, [], [])] == [n.allocatable for n in nodes]
    print(f"placement of 1,000 leases on 200 nodes of 8 GPUs: {spent_s:.1f} s of one core, every GPU used once")
