"""Every kind of object of a lease is taken by a real API server as it is, and a second look finds nothing to write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpulease.inventory.devices import node_of
from gpulease.inventory.free import free_capacity
from gpulease.inventory.placement import Grant, Overcommit, Placement, place
from gpulease.inventory.slices import read_slices
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Ref
from gpulease.runtime.hosted_view import compare
from gpulease.workload.model import Mount
from gpulease.workload.objects import Hosted, Hosting, build
from tests.rig.envtest import EnvTest
from tests.unit.test_inventory import body, wanting
from tests.unit.test_workload_objects import LEASE, MIG, service, service_group, volume

pytestmark = pytest.mark.envtest
SLICES = Path(__file__).parent.parent / "data" / "inventory" / "resource-slices.json"
HOSTING = Hosting(domain="apps.example.com", storage_classes={"beta3": "fast-ssd"}, ingress_class="nginx")


def dra_grant(model: str) -> Grant:
    """As a bid on a node with NVIDIA's DRA driver fixes it, a sick device avoided."""
    dra = read_slices(json.loads(SLICES.read_text()), quarantined=frozenset({"GPU-aaaa"}))
    found = place(wanting(model), free_capacity([node_of(body("dra-1", gpus=0), dra=dra)], [], []))
    assert isinstance(found, Placement)
    return found.grants[1]


CASES: Mapping[str, dict[str, Any]] = {
    "whole": {},
    "mig": {"grants": {1: Grant(MIG)}},
    "dra": {"grants": {1: dra_grant("t4")}},
    "dra-mig": {"grants": {1: dra_grant("a100-mig-1g.10gb")}},
    "overcommit": {"overcommit": Overcommit(100, 25), "nodes": {1: ("n1", "n2")}},
}


@pytest.mark.parametrize("name", CASES)
async def test_the_objects_of_a_lease_are_taken_and_settle(envtest: EnvTest, name: str) -> None:
    kept = service(
        volumes=(volume("data", class_="beta3", persistent=True), volume("shm", class_="ram", persistent=False)),
        mounts=(Mount("data", "/data"), Mount("shm", "/dev/shm")),
        hosts=("a.example.org",),
        env=("A=b", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
    )
    lease = replace(LEASE, dseq=1000 + list(CASES).index(name))
    wanted = build(Hosted(lease, service_group(kept), **CASES[name]), HOSTING)
    async with Cluster.connect(str(envtest.kubeconfig)) as cluster:
        for one in wanted:
            await cluster.apply(one)
        live = [await cluster.get(Ref.of(one)) for one in wanted]
        again = compare(wanted, [one for one in live if one is not None])
        assert [f"{o['kind']}/{o['metadata']['name']}" for o in again.write] == []
        assert len([one for one in live if one is not None]) == len(wanted)


async def test_a_cluster_without_the_gateway_api_is_noticed(envtest: EnvTest) -> None:
    async with Cluster.connect(str(envtest.kubeconfig)) as cluster:
        assert not await cluster.serves("gateway.networking.k8s.io/v1", "HTTPRoute")
        assert await cluster.serves("networking.k8s.io/v1", "Ingress")
        assert await cluster.serves("resource.k8s.io/v1", "ResourceSlice")
