"""Custom host names over the gateway: held, withheld, refused, migrated."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gpulease.chain import codec
from gpulease.gateway import manifests
from gpulease.ids import DeploymentId, LeaseId
from gpulease.kube.refs import Ref
from gpulease.units import UACT, Coin, Dec, DecCoin
from gpulease.workload import manifest
from gpulease.workload.names import lease_namespace, manifest_secret
from tests.contract.test_chain_client import PROVIDER, TENANT
from tests.contract.test_gateway import DSEQ, OPERATOR_NS, RECORDED, Stand, spec_of, stand
from tests.contract.test_gateway_limits import bearer

pytestmark = pytest.mark.contract
FIRST, SECOND = DSEQ + 10, DSEQ + 11


def with_hosts(*names: str) -> bytes:
    body = json.loads(json.dumps(RECORDED["manifest"]))
    body[0]["services"][0]["expose"][0]["hosts"] = list(names)
    return json.dumps(body).encode()


async def leased(here: Stand, dseq: int, raw: bytes) -> LeaseId:
    """A deployment of that manifest, won by the provider."""
    lease = LeaseId(TENANT.address, dseq, 1, 1, PROVIDER.address)
    groups = manifest.parse(raw)
    deploy = codec.create_deployment(
        DeploymentId(TENANT.address, dseq),
        (spec_of(groups[0].services[0].resources),),
        hash_=manifest.manifest_hash(groups),
        deposit=Coin(UACT, 500_000),
    )
    await here.buyer.done(f"deploy-{dseq}", deploy)
    price = DecCoin(UACT, Dec.of("50"))
    await here.seller.done(f"bid-{dseq}", codec.create_bid(lease, price=price, deposit=Coin(UACT, 500_000)))
    await here.buyer.done(f"lease-{dseq}", codec.create_lease(lease))
    return lease


async def put(here: Stand, dseq: int, raw: bytes) -> tuple[int, str]:
    status, _, text = await here.ask("PUT", f"/deployment/{dseq}/manifest", token=bearer(), body=raw.decode())
    return status, text


async def move(here: Stand, names: Any, dseq: int, route: str = "hostname") -> tuple[int, str]:
    field = {"hostname": "hostnames_to_migrate", "endpoint": "endpoints_to_migrate"}[route]
    body = json.dumps({field: names, "destination_dseq": dseq, "destination_gseq": 1})
    status, _, text = await here.ask("POST", f"/{route}/migrate", token=bearer(), body=body)
    return status, text


def led_to(here: Stand, lease: LeaseId) -> set[str]:
    """What the operator makes the lease's ingress of."""
    secret = here.cluster.objects[Ref("v1", "Secret", manifest_secret(lease_namespace(lease)), OPERATOR_NS)]
    group = manifests.hosted_group(secret)
    assert group is not None
    return {host for s in group.services for e in s.expose for host in e.hosts or ()}


def holds(here: Stand, lease: LeaseId) -> frozenset[str] | None:
    secret = here.cluster.objects[Ref("v1", "Secret", manifest_secret(lease_namespace(lease)), OPERATOR_NS)]
    return manifests.held_hosts(secret)


async def test_a_name_is_withheld_from_a_second_lease_until_it_is_migrated() -> None:
    raw = with_hosts("app.example.com")
    async with stand(lease=False) as here:
        first = await leased(here, FIRST, raw)
        assert await put(here, FIRST, raw) == (200, "")
        second = await leased(here, SECOND, raw)
        assert await move(here, ["app.example.com"], SECOND) == (400, "destination deployment does not exist\n")
        assert await put(here, SECOND, raw) == (200, "")
        assert (holds(here, first), holds(here, second)) == ({"app.example.com"}, frozenset())
        assert await move(here, ["app.example.com"], SECOND) == (200, '{"transferred":["app.example.com"]}')
        assert (holds(here, first), holds(here, second)) == (frozenset(), {"app.example.com"})
        assert (led_to(here, first), led_to(here, second)) == (set(), {"app.example.com"})
        assert await move(here, ["app.example.com"], SECOND) == (200, '{"transferred":["app.example.com"]}')
        assert await put(here, FIRST, raw) == (200, "")
        assert holds(here, first) == frozenset()
        status, text = await move(here, ["other.example.com"], SECOND)
        assert (status, "not in the manifest" in text) == (400, True)
        status, text = await move(here, ["ip"], SECOND, "endpoint")
        assert (status, "not in the manifest" in text) == (400, True)


async def test_another_tenants_name_and_a_blocked_one_are_refused_in_the_peers_words() -> None:
    raw = with_hosts("app.example.com")
    async with stand(lease=False) as here:
        first = await leased(here, FIRST, raw)
        assert await put(here, FIRST, raw) == (200, "")
        ref = Ref("v1", "Secret", manifest_secret(lease_namespace(first)), OPERATOR_NS)
        stolen = here.cluster.objects.pop(ref)
        stranger = LeaseId(PROVIDER.address, 1, 1, 1, PROVIDER.address)
        stolen["metadata"]["name"] = "manifest-of-a-stranger"
        stolen["metadata"]["annotations"][manifests.LEASE_ANNOTATION] = str(stranger)
        here.cluster.put(stolen)
        status, text = await put(here, FIRST, raw)
        assert (status, text.startswith("hostname not allowed: ")) == (500, True)
        here.cluster.remove(Ref("v1", "Secret", "manifest-of-a-stranger", OPERATOR_NS))
        desk = here.server.gateway.desk
        desk.identity = replace(desk.identity, blocked_hosts=(".example.com",))
        status, text = await put(here, FIRST, raw)
        assert (status, text.startswith("hostname not allowed: ")) == (500, True)
        desk.identity = replace(desk.identity, blocked_hosts=())
        assert await put(here, FIRST, raw) == (200, "")
