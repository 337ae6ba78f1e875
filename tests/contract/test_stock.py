"""The provider's stock over a cluster in memory: what is sold, held back, and told about, node by node."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpulease.agent.collector import UsageCollector
from gpulease.errors import KubeError, KubeNotFound, KubeUnreachable
from gpulease.inventory.facts import DeviceFacts, NodeFacts, XidEvent
from gpulease.inventory.placement import CannotPlace, Placement, place
from gpulease.kube.refs import Listing
from gpulease.runtime import fitness
from gpulease.runtime.health import DeviceHealth
from gpulease.runtime.specs import ProviderSpec, parse_provider, released_devices
from gpulease.runtime.stock import Reservations, Stock
from gpulease.store.journal import Journal
from tests.fakes.cluster import FakeCluster
from tests.perf.placement_sim import group
from tests.unit.test_inventory import body, labelled

pytestmark = pytest.mark.contract
DATA = Path(__file__).parent.parent / "data" / "inventory"
A100 = "NVIDIA-A100-SXM4-80GB"


class OldCluster(FakeCluster):
    """Serves no resource.k8s.io."""

    async def list(self, api_version: str, kind: str, **more: Any) -> Listing:
        if api_version.startswith("resource.k8s.io"):
            raise KubeNotFound(404, "NotFound", "the server could not find the requested resource")
        return await super().list(api_version, kind, **more)


def spec(**changes: Any) -> ProviderSpec:
    raw: dict[str, Any] = {
        "chain": {"chainID": "c", "endpoints": [{"rpc": "http://x:1", "grpc": "x:2"}]},
        "wallet": {"secretName": "w"},
        "hostURI": "https://p.example.com:8443",
        "pricing": {"gpuUsdPerHour": [{"model": "*", "usdPerHour": "1"}]},
        "isolation": {"nodeFloor": "enforce"},
        **changes,
    }
    return parse_provider({"metadata": {"name": "gp", "namespace": "ns", "uid": "u"}, "spec": raw})


def node(name: str = "n1", **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", **body(name, **{"labels": labelled(A100), **more})}


def pod(name: str, gpus: int, *, lease: str = "", phase: str = "Running", on: str = "n1") -> dict[str, Any]:
    labels = {"gpulease.dev/lease": lease} if lease else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": lease or "default", "labels": labels},
        "spec": {"nodeName": on, "containers": [{"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}]},
        "status": {"phase": phase},
    }


def answer(*xids: tuple[str, int], products: tuple[str, ...] = (A100, A100), at_ms: int = 10) -> NodeFacts:
    devices = tuple(
        DeviceFacts(
            f"GPU-{i}", i, product, xids=tuple(XidEvent(at_ms, code) for uuid, code in xids if uuid == f"GPU-{i}")
        )
        for i, product in enumerate(products)
    )
    return NodeFacts("n1", "b1", at_ms, "570.133.20", devices)


class Shop:
    def __init__(self, cluster: FakeCluster, **changes: Any) -> None:
        self.journal = Journal(":memory:")
        self.usage = UsageCollector(self.journal)
        self.health = DeviceHealth(self.journal, self.usage)
        self.reservations = Reservations(self.journal, "akash1p")
        self.stock = Stock(
            cluster,  # type: ignore[arg-type]
            self.reservations,
            spec=spec(**changes),
            devices=self.health,
        )

    async def order(self, gpus: int, key: str = "") -> bool:
        snapshot = await self.stock.snapshot(fresh_s=-1)
        found = place(group(gpus), self.stock.free(snapshot))
        if isinstance(found, Placement) and key:
            self.reservations.hold(key, f"ns-{key}", found)
        return isinstance(found, Placement)

    async def conditions(self) -> dict[str, tuple[str, str]]:
        snapshot = await self.stock.snapshot(fresh_s=-1)
        found = [
            fitness.inventory(snapshot.kinds(), snapshot.nodes),
            fitness.nodes_fit(
                self.stock.free(snapshot),
                snapshot.old_versions,
                snapshot.unknown_versions,
                dra_forbidden=snapshot.dra_forbidden,
            ),
            fitness.devices_healthy(self.health.quarantines.values()),
        ]
        return {c.type: (c.reason, c.message) for c in found}


async def test_a_bid_holds_its_gpus_until_it_is_released() -> None:
    cluster = OldCluster()
    cluster.put(node(gpus=2))
    shop = Shop(cluster)
    assert await shop.order(1, "a")
    assert not await shop.order(2)
    cluster.put(pod("web", 1, lease="ns-a"))
    assert await shop.order(1), "its pod is not counted beside its reservation"
    shop.reservations.release("a")
    cluster.put(pod("web", 1, lease="ns-a", phase="Succeeded"))
    assert await shop.order(2)


async def test_a_device_in_quarantine_is_not_sold_and_the_others_are() -> None:
    cluster = OldCluster()
    cluster.put(node(gpus=2))
    shop = Shop(cluster)
    shop.health.take(answer(("GPU-0", 79)))
    assert (await shop.order(1), await shop.order(2)) == (True, False)
    count = shop.stock.count(await shop.stock.snapshot())
    assert (count.total, count.free, count.quarantined) == (2, 1, 1)
    reason, words = (await shop.conditions())["DevicesHealthy"]
    assert (reason, "GPU-0 on n1: XID 79" in words, "release-device" in words) == ("Quarantined", True, True)
    # The plugin withdraws it as well: it is the same device.
    cluster.put(node(gpus=1, cap={"nvidia.com/gpu": "2"}))
    assert await shop.order(1)
    shop.health.release("p", ["GPU-0"])
    cluster.put(node(gpus=2))
    shop.health.take(answer(("GPU-0", 79), at_ms=10))
    assert await shop.order(2)


async def test_less_allocatable_than_held_is_nothing_free_and_a_condition() -> None:
    cluster = OldCluster()
    cluster.put(node(gpus=1, cap={"nvidia.com/gpu": "2"}))
    cluster.put(pod("a", 1))
    cluster.put(pod("b", 1))
    shop = Shop(cluster)
    count = shop.stock.count(await shop.stock.snapshot())
    assert (count.free, count.total, count.quarantined) == (0, 2, 1)
    reason, words = (await shop.conditions())["NodesFit"]
    assert (reason, "n1" in words) == ("CapacityShort", True)


async def test_a_node_below_the_floor_is_not_sold_unless_the_admin_only_wants_to_know() -> None:
    old = {**labelled(A100), "gpulease.dev/runc-version": "1.1.12"}
    for floor, sold in (("enforce", False), ("report", True)):
        cluster = OldCluster()
        cluster.put(node(labels=old))
        shop = Shop(cluster, isolation={"nodeFloor": floor})
        assert await shop.order(1) is sold
        reason, words = (await shop.conditions())["NodesFit"]
        assert (reason, "runc 1.1.12 is too old" in words) == ("BelowNodeFloor", True)


async def test_a_mixed_node_is_sold_by_device_once_it_is_known_who_holds_which() -> None:
    cluster = OldCluster()
    cluster.put(node(gpus=2))
    shop = Shop(cluster)
    held = {"running": [["web", "web", "GPU-1"]], "devices": ["GPU-1"], "xids": []}
    shop.journal.put("usage-total", "ns-a", held)
    shop.health.take(answer(products=(A100, "Tesla T4")))

    async def offered() -> list[str]:
        snapshot = await shop.stock.snapshot(fresh_s=-1)
        return [k.model for k in snapshot.nodes[0].pools[0].kinds]

    assert await offered() == ["a100", "t4"]
    cluster.put(pod("web", 1, lease="ns-a"))
    assert await offered() == ["a100"]
    kinds = (await shop.stock.snapshot(fresh_s=-1)).kinds()
    assert [k.model for k in kinds] == ["a100", "t4"], "what is published does not follow the leases"
    cluster.put(pod("other", 1))
    assert await offered() == ["a100", "t4"], "a stranger's pod holds one that nobody names"


async def test_overrides_name_what_the_table_does_not() -> None:
    cluster = OldCluster()
    cluster.put(node(labels=labelled("Unheard-Of-9000")))
    reason, words = (await Shop(cluster).conditions())["InventoryReady"]
    assert (reason, "gpuModelOverrides" in words) == ("NotForSale", True)
    override = {"product": "unheard of 9000", "model": "u9", "ram": "9Gi", "interface": "pcie"}
    shop = Shop(cluster, capacity={"gpuModelOverrides": [override]})
    assert [str(k) for k in (await shop.stock.snapshot()).kinds()] == ["u9 9Gi pcie"]


async def test_slices_are_the_one_source_of_their_node() -> None:
    cluster = FakeCluster()
    cluster.put(node("dra-1", gpus=4))
    for one in json.loads((DATA / "resource-slices.json").read_text()):
        cluster.put(one)
    shop = Shop(cluster)
    snapshot = await shop.stock.snapshot()
    assert (snapshot.nodes[0].dra, snapshot.nodes[0].allocatable.gpus) == (True, 0)
    count = shop.stock.count(snapshot)
    assert (count.total, count.free, count.quarantined) == (5, 4, 1)
    cluster.put(json.loads((DATA / "resource-claim.json").read_text()))
    after = shop.stock.count(await shop.stock.snapshot(fresh_s=-1))
    assert (after.leased, after.free) == (1, 3)
    shop.health.take(replace(answer(), node="dra-1", devices=(DeviceFacts("GPU-cccc", xids=(XidEvent(5, 79),)),)))
    sick = await shop.stock.snapshot(fresh_s=-1)
    assert shop.stock.count(sick).free == 2


async def test_an_api_server_that_does_not_answer_is_not_an_empty_cluster() -> None:
    cluster = FakeCluster()
    cluster.down = True
    with pytest.raises(KubeUnreachable):
        await Shop(cluster).stock.snapshot()


async def test_slices_that_may_not_be_read_are_told_and_stop_nothing() -> None:
    class Forbidding(FakeCluster):
        async def list(self, api_version: str, kind: str, **more: Any) -> Listing:
            if api_version.startswith("resource.k8s.io"):
                raise KubeError(403, "Forbidden", "cannot list resourceslices")
            return await super().list(api_version, kind, **more)

    cluster = Forbidding()
    cluster.put(node())
    shop = Shop(cluster)
    assert await shop.order(1)
    assert (await shop.conditions())["NodesFit"][0] == "SlicesUnreadable"


def test_what_the_annotation_releases() -> None:
    def read(text: str) -> tuple[str, ...]:
        return released_devices({"metadata": {"annotations": {"gpulease.dev/release-device": text}}})

    assert read("GPU-0, GPU-1 ,,") == ("GPU-0", "GPU-1")
    assert released_devices({"metadata": {}}) == ()
    assert isinstance(place(group(1), ()), CannotPlace)
