"""Nodes, pods and slices as numbers: one source per node, sick and shared devices, models by device."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpulease.inventory.amounts import Amounts
from gpulease.inventory.devices import Node, claim_uses, node_of, pod_use
from gpulease.inventory.facts import DeviceFacts, NodeFacts
from gpulease.inventory.floor import check, too_old
from gpulease.inventory.free import count_gpus, free_capacity
from gpulease.inventory.placement import CannotPlace, Overcommit, Placement, place
from gpulease.inventory.pools import narrowed
from gpulease.inventory.slices import read_slices
from gpulease.market.gpu import GpuKind, accepted, kind_of_product, slice_kind, wants
from gpulease.market.model import Attribute
from tests.perf.placement_sim import group

pytestmark = pytest.mark.unit
DATA = Path(__file__).parent.parent / "data" / "inventory"
A100, T4 = GpuKind("a100", "80Gi", "sxm"), GpuKind("t4", "16Gi", "pcie")
GIB = 1 << 30


def body(name: str = "n1", *, labels: dict[str, str] | None = None, gpus: int = 8, **more: Any) -> dict[str, Any]:
    """A Node object; ``alloc`` and ``cap`` add resources, ``spec`` fields of its spec."""
    base = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti"}
    whole = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": more.get("spec", {}),
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "allocatable": {**base, **whole, **more.get("alloc", {})},
            "capacity": {**base, **whole, **more.get("cap", more.get("alloc", {}))},
            "nodeInfo": {"containerRuntimeVersion": more.get("runtime", "containerd://2.1.1")},
        },
    }


def labelled(product: str, **more: str) -> dict[str, str]:
    return {"nvidia.com/gpu.product": product, **{f"nvidia.com/{k.replace('_', '.')}": v for k, v in more.items()}}


@pytest.mark.parametrize(
    ("product", "memory_gib", "kind"),
    [
        ("NVIDIA-A100-SXM4-80GB", None, "a100 80Gi sxm"),
        ("NVIDIA A100-SXM4-80GB", 79.15, "a100 80Gi sxm"),
        ("NVIDIA H200", 140.4, "h200 141Gi sxm"),
        ("Tesla T4", 15.0, "t4 16Gi pcie"),
        ("NVIDIA GeForce RTX 3080", 11.8, "rtx3080 12Gi pcie"),
        ("NVIDIA GeForce RTX 4090", None, "rtx4090 24Gi pcie"),
        ("NVIDIA GeForce RTX 4090 D", None, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("NVIDIA GeForce RTX 4080 SUPER", None, None),
        ("Unheard Of 9000", None, None),
    ],
)
def test_a_product_is_named_as_the_market_does(product: str, memory_gib: float | None, kind: str | None) -> None:
    memory = None if memory_gib is None else int(memory_gib * GIB)
    found = kind_of_product(product, memory_bytes=memory)
    assert (None if found is None else str(found)) == kind


def test_an_override_goes_before_the_table_whatever_its_dashes() -> None:
    mine = GpuKind("x9", "9Gi", "pcie")
    assert kind_of_product("NVIDIA A100-SXM4-80GB", overrides={"nvidia-a100 sxm4-80gb": mine}) == mine
    assert kind_of_product("NVIDIA A100-SXM4-40GB", overrides={"nvidia-a100 sxm4-80gb": mine}) != mine


def test_a_slice_is_sold_only_to_who_names_it() -> None:
    kind = slice_kind("NVIDIA-A100-SXM4-80GB", "1g.10gb")
    assert kind == GpuKind("a100-mig-1g.10gb", "10Gi", "sxm")
    named = wants([Attribute("vendor/nvidia/model/a100-mig-1g.10gb", "true")])
    any_ = wants([Attribute("vendor/nvidia/model/*", "true")])
    assert [accepted(kind, asked) for asked in (named, any_, ())] == [True, False, False]
    assert [accepted(A100, asked) for asked in (named, any_, ())] == [False, True, True]


@pytest.mark.parametrize(
    ("labels", "alloc", "kinds", "problem"),
    [
        (labelled("NVIDIA-A100-SXM4-80GB"), {}, {"nvidia.com/gpu": ["a100"]}, ""),
        (labelled("NVIDIA-A100-SXM4-80GB-SHARED"), {}, {"nvidia.com/gpu": []}, "shared"),
        (labelled("NVIDIA-A100-SXM4-80GB", gpu_replicas="4"), {}, {"nvidia.com/gpu": []}, "shared"),
        (
            {**labelled("NVIDIA-A100-SXM4-80GB"), "nvidia.com/gpu.sharing-strategy": "mps"},
            {},
            {"nvidia.com/gpu": []},
            "shared",
        ),
        (labelled("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"), {}, {"nvidia.com/gpu": ["a100-mig-1g.10gb"]}, ""),
        (
            labelled("NVIDIA-A100-SXM4-80GB"),
            {"nvidia.com/mig-1g.10gb": "7", "nvidia.com/mig-3g.40gb": "1"},
            {
                "nvidia.com/gpu": ["a100"],
                "nvidia.com/mig-1g.10gb": ["a100-mig-1g.10gb"],
                "nvidia.com/mig-3g.40gb": ["a100-mig-3g.40gb"],
            },
            "",
        ),
        (
            labelled("NVIDIA-A100-SXM4-80GB"),
            {"nvidia.com/gpu.shared": "16"},
            {"nvidia.com/gpu": ["a100"], "nvidia.com/gpu.shared": []},
            "shared or unknown resource",
        ),
        (labelled("Unheard-Of"), {}, {"nvidia.com/gpu": []}, "gpuModelOverrides"),
        ({}, {}, {"nvidia.com/gpu": []}, "neither GPU feature discovery nor the node's agent"),
    ],
)
def test_pools_of_a_node(
    labels: dict[str, str], alloc: dict[str, str], kinds: dict[str, list[str]], problem: str
) -> None:
    node = node_of(body(labels=labels, alloc=alloc))
    assert {pool.resource: [kind.model for kind in pool.kinds] for pool in node.pools} == kinds
    problems = [pool.problem for pool in node.pools if pool.problem]
    assert (problem in problems[0]) if problem else not problems


def test_the_capacity_of_an_old_mig_layout_is_no_sick_device() -> None:
    stale = {"nvidia.com/mig-1g.10gb": "7", "nvidia.com/mig-3g.40gb": "2"}
    node = node_of(
        body(gpus=0, labels=labelled("NVIDIA-A100-SXM4-80GB"), alloc={"nvidia.com/mig-3g.40gb": "2"}, cap=stale)
    )
    assert (node.sick_gpus, node.allocatable.of("nvidia.com/mig-3g.40gb")) == (0, 2)


def test_gpus_cut_into_slices_are_not_sick_whole_ones() -> None:
    cut = NodeFacts("n1", "b", 1, "", tuple(DeviceFacts(f"GPU-{i}", i, mig_enabled=i < 3) for i in range(4)))
    raw = body(gpus=1, labels=labelled("NVIDIA-A100-SXM4-80GB"), cap={"nvidia.com/gpu": "4"})
    assert (node_of(raw, facts=cut).sick_gpus, node_of(raw).sick_gpus) == (0, 3)
    lost = NodeFacts("n1", "b", 1, "", tuple(DeviceFacts(f"GPU-{i}", i) for i in range(4)))
    assert node_of(raw, facts=lost).sick_gpus == 3


def facts(*products: str, uuids: tuple[str, ...] = ("GPU-0", "GPU-1")) -> NodeFacts:
    devices = tuple(DeviceFacts(u, i, p) for i, (u, p) in enumerate(zip(uuids, products, strict=True)))
    return NodeFacts("n1", "boot", 1, "570.133.20", devices)


def test_a_node_with_two_models_is_sold_by_device() -> None:
    mixed = facts("NVIDIA A100-SXM4-80GB", "Tesla T4")
    node = node_of(body(gpus=2, labels=labelled("NVIDIA-A100-SXM4-80GB")), facts=mixed)
    pool = node.pools[0]
    assert pool.kinds == (A100, T4)
    free = free_capacity([node], [], [])
    # The kubelet chooses the device: an order for one model might get the other.
    assert isinstance(place(wanting("a100"), free), CannotPlace)
    assert isinstance(place(wanting("a100", "t4"), free), Placement)
    for held, kinds in (({"GPU-1"}, (A100,)), ({"GPU-0"}, (T4,)), (set(), (A100, T4))):
        left = narrowed(pool, mixed, frozenset(held), in_use=len(held), overrides={})
        assert left.kinds == kinds
    # Somebody else holds one that nobody has named: certainty is gone.
    assert narrowed(pool, mixed, frozenset({"GPU-1"}), in_use=2, overrides={}).kinds == (A100, T4)


def wanting(*models: str) -> Any:
    spec = group(1)
    unit = spec.resources[0]
    asked = tuple(Attribute(f"vendor/nvidia/model/{m}", "true") for m in models)
    return replace(spec, resources=(replace(unit, resources=replace(unit.resources, gpu_attributes=asked)),))


def slices() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DATA / "resource-slices.json").read_text())
    return found


def test_a_node_that_publishes_slices_has_that_one_source() -> None:
    dra = read_slices(slices())
    node = node_of(body("dra-1", gpus=3, labels=labelled("NVIDIA-A100-SXM4-80GB")), dra=dra)
    assert node.dra
    assert node.allocatable.gpus == 0
    assert {p.resource: (p.allocatable, p.withdrawn, p.problem) for p in node.pools} == {
        "gpu.nvidia.com/gpu-a100-80Gi-sxm": (1, 1, ""),
        "gpu.nvidia.com/gpu-t4-16Gi-pcie": (1, 0, ""),
        "gpu.nvidia.com/mig-a100-mig-1g.10gb-10Gi-sxm": (2, 0, ""),
    }
    assert node_of(body("plugin-1", gpus=3), dra=dra).allocatable.gpus == 3
    # A pod of the device plugin's days counts nothing here; its claim does.
    pod = {
        "metadata": {"namespace": "x", "name": "p"},
        "spec": {"nodeName": "dra-1", "containers": [{"resources": {"limits": {"nvidia.com/gpu": "1", "cpu": "1"}}}]},
        "status": {"phase": "Running"},
    }
    use = pod_use(pod, dra_nodes=dra.pools.keys())
    assert use is not None
    assert (use.amounts.devices, use.amounts.cpu_milli) == (0, 1000)
    claim = json.loads((DATA / "resource-claim.json").read_text())
    uses = claim_uses(claim, dra)
    assert [(u.node, u.lease, u.amounts.others) for u in uses] == [
        ("dra-1", "lease-ns", (("gpu.nvidia.com/gpu-a100-80Gi-sxm", 1),))
    ]
    left = free_capacity([node], uses, [])[0].free
    assert left.of("gpu.nvidia.com/gpu-a100-80Gi-sxm") == 0
    assert not free_capacity([node], uses, [])[0].shortfall


def test_a_claim_asks_for_the_model_by_cel_and_avoids_a_sick_device() -> None:
    dra = read_slices(slices(), quarantined=frozenset({"GPU-aaaa"}))
    node = node_of(body("dra-1", gpus=0), dra=dra)
    placed = place(wanting("t4"), free_capacity([node], [], []))
    assert isinstance(placed, Placement)
    grant = placed.grants[1]
    assert (grant.device_class, placed.kinds[1]) == ("gpu.nvidia.com", (T4,))
    assert "productName in ['Tesla T4']" in grant.selector
    sick = next(p for p in node.pools if "a100-80Gi" in p.resource)
    assert (sick.allocatable, "!(device.attributes['gpu.nvidia.com'].uuid in ['GPU-aaaa'])" in sick.selector) == (
        0,
        True,
    )
    assert isinstance(place(wanting("a100"), free_capacity([node], [], [])), CannotPlace)


def test_an_incomplete_pool_of_slices_is_not_sold() -> None:
    bodies = slices()
    bodies[0]["spec"]["pool"]["resourceSliceCount"] = 9
    node = node_of(body("dra-1", gpus=3), dra=read_slices(bodies))
    assert all("all slices" in pool.problem for pool in node.pools)
    assert node.kinds == ()


def test_finished_pods_hold_nothing_and_init_containers_count() -> None:
    def pod(phase: str, **spec: Any) -> dict[str, Any]:
        return {"metadata": {"name": "p"}, "spec": {"nodeName": "n1", **spec}, "status": {"phase": phase}}

    def ask(gpus: int) -> dict[str, Any]:
        return {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}

    assert [pod_use(pod(phase, containers=[ask(1)])) for phase in ("Succeeded", "Failed")] == [None, None]
    cases = [
        (pod("Running", containers=[ask(1)], initContainers=[ask(4)]), 4),
        (pod("Running", containers=[ask(2), ask(1)], initContainers=[ask(1)]), 3),
        (pod("Running", containers=[ask(1)], initContainers=[{**ask(2), "restartPolicy": "Always"}, ask(1)]), 3),
    ]
    assert [use.amounts.gpus for body_, _ in cases if (use := pod_use(body_)) is not None] == [n for _, n in cases]


def test_a_sick_device_is_counted_once_whoever_took_it_out() -> None:
    node = node_of(body(gpus=7, labels=labelled("NVIDIA-A100-SXM4-80GB"), cap={"nvidia.com/gpu": "8"}))
    for blocked, free, sick in (({}, 7, 1), ({"nvidia.com/gpu": 1}, 7, 1), ({"nvidia.com/gpu": 2}, 6, 2)):
        count = count_gpus([node], [], [], blocked={"n1": blocked})
        assert (count.total, count.free, count.quarantined) == (8, free, sick)


def test_overcommit_promises_more_cpu_and_memory_than_there_is_but_no_gpu() -> None:
    node = node_of(body(gpus=2, labels=labelled("NVIDIA-A100-SXM4-80GB")))
    big = group(1, cpu=60, memory_gib=300)
    free = free_capacity([node], [], [])

    def twice(terms: Overcommit | None) -> bool:
        first = place(big, free, overcommit=terms)
        assert isinstance(first, Placement)
        left = tuple(replace(e, free=e.free - first.nodes.get(e.node.name, Amounts())) for e in free)
        return isinstance(place(big, left, overcommit=terms), Placement)

    assert (twice(None), twice(Overcommit(100, 50))) == (False, True)
    assert isinstance(place(group(3), free, overcommit=Overcommit(400, 100)), CannotPlace)


@pytest.mark.parametrize(
    ("version", "fixed", "old"),
    [
        ("1.17.7", ["1.17.8"], True),
        ("1.17.8", ["1.17.8"], False),
        ("v1.18.0", ["1.17.8"], False),
        ("1.16.2", ["1.17.8"], True),
        ("1.2.7", ["1.2.8", "1.3.3", "1.4.0"], True),
        ("1.3.3", ["1.2.8", "1.3.3", "1.4.0"], False),
        ("1.4.0-rc.1", ["1.2.8", "1.3.3", "1.4.0"], True),
        ("1.5.0", ["1.2.8", "1.3.3", "1.4.0"], False),
        ("1.1.12", ["1.2.8", "1.3.3", "1.4.0"], True),
        ("570.86.15", ["535.247.01", "570.133.20"], True),
        ("570.133.20", ["535.247.01", "570.133.20"], False),
        ("560.35.03", ["535.247.01", "570.133.20"], True),
        ("580.65.06", ["535.247.01", "570.133.20"], False),
    ],
)
def test_versions_are_held_against_their_own_line(version: str, fixed: list[str], old: bool) -> None:
    assert too_old(version, fixed) is old


@pytest.mark.parametrize(
    ("labels", "runtime", "driver", "says"),
    [
        ({"gpulease.dev/container-toolkit-version": "1.17.4"}, "containerd://2.1.1", "570.133.20", "Container Toolkit"),
        ({"gpulease.dev/runc-version": "1.1.5"}, "containerd://2.1.1", "570.133.20", "runc 1.1.5"),
        ({}, "containerd://1.6.20", "570.133.20", ""),
        ({"gpulease.dev/runc-version": "1.1.5+ds1"}, "containerd://2.1.1", "570.133.20", ""),
        ({}, "containerd://2.1.1", "550.54.15", "driver 550.54.15"),
        ({"nvidia.com/cuda.driver-version.full": "550.54.15"}, "containerd://2.1.1", "", "driver 550.54.15"),
        ({}, "cri-o://1.30.0", "", ""),
    ],
)
def test_a_node_below_the_floor_is_not_sold_and_says_why(
    labels: dict[str, str], runtime: str, driver: str, says: str
) -> None:
    told = NodeFacts("n1", "b", 1, driver, ()) if driver else None
    node = node_of(body(labels={**labelled("NVIDIA-A100-SXM4-80GB"), **labels}, runtime=runtime), facts=told)
    verdict = check(node, told)
    assert (says in verdict.problem) if says else not verdict.problem
    if says:
        assert "update it" in verdict.problem
        assert free_capacity([replace(node, floor_problem=verdict.problem)], [], [])[0].free == Amounts()
    elif not driver:
        strict = check(node, told, require_known=True)
        assert "requireKnownVersions" in strict.problem


def test_a_cordoned_or_silent_node_keeps_its_kinds_but_sells_nothing() -> None:
    node: Node = node_of(body(labels=labelled("NVIDIA-A100-SXM4-80GB"), spec={"unschedulable": True}))
    assert (node.cordoned, node.usable, node.kinds) == (True, False, (A100,))
    assert free_capacity([node], [], [])[0].free == Amounts()
