"""Whatever orders, pods, faults and releases come in whatever order: nothing is sold twice, and nothing is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gpulease.inventory.amounts import GPU_RESOURCE, Amounts, sum_amounts
from gpulease.inventory.devices import Node, PodUse
from gpulease.inventory.free import NodeFree, Reservation, count_gpus, free_capacity
from gpulease.inventory.placement import CannotPlace, Overcommit, Placement, need_of, place
from gpulease.inventory.pools import Pool
from gpulease.market.gpu import GpuKind
from gpulease.market.model import Attribute, GroupSpec, PlacementRequirements, Resources, ResourceUnit, Storage
from gpulease.units import UACT, Dec, DecCoin

pytestmark = pytest.mark.property
GIB = 1 << 30
A100, T4 = GpuKind("a100", "80Gi", "sxm"), GpuKind("t4", "16Gi", "pcie")
SLICE = GpuKind("a100-mig-1g.10gb", "10Gi", "sxm")
MIG = "nvidia.com/mig-1g.10gb"
PRICE = DecCoin(UACT, Dec.of(1))


def make_node(index: int, gpus: int, slices: int, kinds: tuple[GpuKind, ...]) -> Node:
    counts = ((MIG, slices),) if slices else ()
    pools = [Pool(GPU_RESOURCE, kinds, gpus)] if gpus else []
    pools += [Pool(MIG, (SLICE,), slices)] if slices else []
    return Node(f"n{index}", True, Amounts(32_000, 128 * GIB, 500 * GIB, gpus, counts), tuple(pools))


nodes_st = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 7), st.sampled_from([(A100,), (T4,), (A100, T4)])),
    min_size=1,
    max_size=4,
).map(lambda specs: tuple(make_node(i, *spec) for i, spec in enumerate(specs)))
models = st.sampled_from([None, "*", "a100", "t4", "a100-mig-1g.10gb"])


@st.composite
def unit(draw: st.DrawFn, rid: int) -> ResourceUnit:
    gpus = draw(st.sampled_from([0, 1, 1, 2, 4, 8]))
    model = draw(models)
    asked = (Attribute(f"vendor/nvidia/model/{model}", "true"),) if gpus and model else ()
    resources = Resources(
        rid,
        draw(st.integers(100, 20_000)),
        draw(st.integers(1, 64)) * GIB,
        (Storage("default", draw(st.integers(1, 50)) * GIB),),
        gpus,
        asked,
    )
    return ResourceUnit(resources, draw(st.integers(1, 4)), PRICE)


@st.composite
def groups(draw: st.DrawFn) -> GroupSpec:
    count = draw(st.integers(1, 3))
    return GroupSpec("g", PlacementRequirements(), tuple(draw(unit(rid)) for rid in range(1, count + 1)))


@dataclass
class Market:
    """The runtime's books in memory: reservations by key, and the pods that came of some of them."""

    nodes: tuple[Node, ...]
    terms: Overcommit
    held: dict[str, Placement] = field(default_factory=dict)
    with_pods: set[str] = field(default_factory=set)
    blocked: Counter[str] = field(default_factory=Counter)

    def reservations(self) -> list[Reservation]:
        return [Reservation(key, f"ns-{key}", placement.nodes) for key, placement in self.held.items()]

    def pods(self) -> list[PodUse]:
        return [
            PodUse(f"ns-{key}", "p", node, amounts, f"ns-{key}")
            for key in sorted(self.with_pods)
            for node, amounts in self.held[key].nodes.items()
        ]

    def free(self) -> tuple[NodeFree, ...]:
        blocked = {name: {GPU_RESOURCE: count} for name, count in self.blocked.items() if count}
        return free_capacity(self.nodes, self.pods(), self.reservations(), blocked=blocked)

    def promised(self, node: str) -> Amounts:
        return sum_amounts(p.nodes.get(node, Amounts()) for p in self.held.values())


def fits_its_order(spec: GroupSpec, found: Placement, market: Market) -> None:
    by_name = {n.name: n for n in market.nodes}
    for unit_ in spec.resources:
        rid = unit_.resources.id
        assert sum(found.replicas[rid].values()) == unit_.count
        if not unit_.resources.gpu_units:
            continue
        grant = found.grants[rid]
        for name in found.replicas[rid]:
            pool = by_name[name].pool(grant.resource)
            assert pool is not None
            assert pool.kinds == found.kinds[rid]
        asked = [a.key.split("/")[3] for a in unit_.resources.gpu_attributes]
        for kind in found.kinds[rid]:
            assert (kind.model in asked) or (not kind.is_slice and (not asked or "*" in asked))
    promised = sum_amounts(found.nodes.values())
    asked_for = sum_amounts(market.terms.requests(need_of(u.resources)) * u.count for u in spec.resources)
    assert (promised.cpu_milli, promised.memory_bytes) == (asked_for.cpu_milli, asked_for.memory_bytes)
    assert promised.devices == asked_for.devices


steps = st.lists(
    st.one_of(
        st.tuples(st.just("order"), groups()),
        st.tuples(st.sampled_from(["pods", "gone", "sick", "well"]), st.integers(0, 50)),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(nodes_st, steps, st.sampled_from([Overcommit(), Overcommit(50, 20)]))
def test_nothing_is_sold_twice_and_nothing_is_lost(
    nodes: tuple[Node, ...], moves: Iterable[tuple[str, object]], terms: Overcommit
) -> None:
    market = Market(nodes, terms)
    at_first = market.free()
    for number, (what, detail) in enumerate(moves):
        if what == "order":
            assert isinstance(detail, GroupSpec)
            found = place(detail, market.free(), overcommit=terms)
            event(type(found).__name__)
            if isinstance(found, Placement):
                fits_its_order(detail, found, market)
                market.held[f"k{number}"] = found
        elif what in ("pods", "gone") and market.held:
            key = sorted(market.held)[int(str(detail)) % len(market.held)]
            if what == "pods":
                market.with_pods.add(key)
            else:
                market.with_pods.discard(key)
                del market.held[key]
        elif what in ("sick", "well"):
            name = nodes[int(str(detail)) % len(nodes)].name
            market.blocked[name] = max(market.blocked[name] + (1 if what == "sick" else -1), 0)
        for node, entry in zip(nodes, market.free(), strict=True):
            assert not entry.free.negative
            assert not (node.allocatable - market.promised(node.name)).negative
            assert node.allocatable.covers(entry.free)
    market.held.clear()
    market.with_pods.clear()
    market.blocked.clear()
    assert market.free() == at_first


@settings(max_examples=100, deadline=None)
@given(nodes_st, groups())
def test_placing_is_the_same_every_time_and_takes_what_it_says(nodes: tuple[Node, ...], spec: GroupSpec) -> None:
    free = free_capacity(nodes, [], [])
    found = place(spec, free)
    assert place(spec, free) == found
    if isinstance(found, CannotPlace):
        assert "room" in found.words
    else:
        assert all(have.free.covers(found.nodes.get(have.node.name, Amounts())) for have in free)


@settings(max_examples=100, deadline=None)
@given(nodes_st, st.integers(0, 12), st.integers(0, 8))
def test_an_overfull_node_has_nothing_free_and_says_so(nodes: tuple[Node, ...], held: int, lost: int) -> None:
    first = nodes[0]
    left = max(first.allocatable.gpus - lost, 0)
    after = replace(first, allocatable=replace(first.allocatable, gpus=left))
    pods = [PodUse("x", f"p{i}", first.name, Amounts(gpus=1)) for i in range(held)]
    entry = free_capacity([after], pods, [])[0]
    assert entry.shortfall == (held > left)
    assert entry.free.gpus == max(left - held, 0)
    if entry.shortfall:
        assert entry.free == Amounts()
    count = count_gpus([after], pods, [])
    assert min(count.total, count.leased, count.reserved, count.free, count.quarantined) >= 0
