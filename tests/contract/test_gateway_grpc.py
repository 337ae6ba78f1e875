"""The gRPC face, over TLS, asked with tokens and with client certificates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gpulease.chain import codec
from gpulease.gateway import certs, rpcwire
from gpulease.gateway.app import Limits
from gpulease.gateway.logs import FollowTiming
from gpulease.gateway.streams import StreamLimits
from gpulease.ids import LeaseId
from gpulease.pb.akash.manifest.v2beta3 import group_pb2
from gpulease.pb.akash.provider.lease.v1 import service_pb2 as lease_pb2
from gpulease.pb.akash.provider.lease.v1 import service_pb2_grpc as lease_grpc
from gpulease.pb.akash.provider.v1 import service_pb2_grpc as provider_grpc
from gpulease.pb.akash.provider.v1 import validation_pb2
from gpulease.runtime.screening import Screening
from gpulease.runtime.specs import parse_provider
from gpulease.workload import manifest
from tests.contract.test_chain_client import PROVIDER, TENANT
from tests.contract.test_gateway import LEASE, MANIFEST, RECORDED, URI_HOST, Stand, spec_of, stand
from tests.contract.test_gateway_limits import bearer

pytestmark = pytest.mark.contract
Code = grpc.StatusCode
FAST = Limits(pods_age_s=0.01, status_age_s=0.01, streams=StreamLimits(follow=FollowTiming(0.05, 0.02, 0.05)))
SCOPED = {"access": "scoped", "scope": ["logs"]}


@asynccontextmanager
async def channel(here: Stand, own: certs.MadeCertificate | None = None) -> AsyncIterator[grpc.aio.Channel]:
    credentials = grpc.ssl_channel_credentials(
        here.certificate.cert_pem, own.key_pem if own else None, own.cert_pem if own else None
    )
    target = f"127.0.0.1:{here.server.grpc_port}"
    options = (("grpc.ssl_target_name_override", "localhost"),)
    async with grpc.aio.secure_channel(target, credentials, options=options) as opened:
        yield opened


def held(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", token),)


def lease_id(lease: LeaseId = LEASE) -> Any:
    return codec.pb_lease_id(lease)


def group_message() -> Any:
    """The recorded manifest as messages."""
    raw = RECORDED["manifest"][0]["services"][0]
    made = group_pb2.Group(name=RECORDED["manifest"][0]["name"])
    service = made.services.add(name=raw["name"], image=raw["image"], count=raw["count"])
    service.command.extend(raw["command"])
    service.args.extend(raw["args"])
    resources = raw["resources"]
    service.resources.id = resources["id"]
    service.resources.cpu.units.val = resources["cpu"]["units"]["val"].encode()
    service.resources.memory.quantity.val = resources["memory"]["size"]["val"].encode()
    service.resources.gpu.units.val = resources["gpu"]["units"]["val"].encode()
    for attribute in resources["gpu"]["attributes"]:
        service.resources.gpu.attributes.add(key=attribute["key"], value=attribute["value"])
    for volume in resources["storage"]:
        service.resources.storage.add(name=volume["name"]).quantity.val = volume["size"]["val"].encode()
    for endpoint in resources["endpoints"]:
        service.resources.endpoints.add(sequence_number=endpoint["sequence_number"])
    for expose in raw["expose"]:
        http = expose["httpOptions"]
        entry = service.expose.add(
            port=expose["port"], external_port=expose["externalPort"], proto=expose["proto"], **{"global": True}
        )
        for name in ("max_body_size", "read_timeout", "send_timeout", "next_tries", "next_timeout"):
            words = name.split("_")
            setattr(entry.http_options, name, http[words[0] + "".join(w.title() for w in words[1:])])
        entry.http_options.next_cases.extend(http["nextCases"])
    return made


def test_messages_give_the_manifest_that_json_gives() -> None:
    raw = rpcwire.manifest_json([group_message()])
    assert manifest.manifest_hash(manifest.parse(raw)) == manifest.manifest_hash(manifest.parse(MANIFEST))


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details() or ""


async def test_a_lease_over_grpc_from_manifest_to_logs() -> None:
    async with stand(grpc=True, limits=FAST) as here, channel(here) as opened:
        leases = lease_grpc.LeaseRPCStub(opened)
        own = held(bearer())
        request = lease_pb2.SendManifestRequest(lease_id=lease_id(), manifest=[group_message()])
        await leases.SendManifest(request, metadata=own, timeout=5)
        here.deployed()
        asked = lease_pb2.ServiceStatusRequest(lease_id=lease_id())
        status = (await leases.ServiceStatus(asked, metadata=own, timeout=5)).services
        assert [(s.name, s.status.available, list(s.status.uris)) for s in status] == [("web", 1, [URI_HOST])]
        changes = leases.StreamServiceStatus(asked, metadata=own, timeout=5)
        assert (await changes.read()).services[0].name == "web"
        changes.cancel()
        log = here.pod("web-1")
        log.write("one")
        streaming = leases.StreamServiceLogs(lease_pb2.ServiceLogsRequest(lease_id=lease_id()), metadata=own, timeout=9)
        first = await streaming.read()
        assert [(s.name, s.logs) for s in first.services] == [("web-1", b"one\n")]
        log.write("two")
        assert (await streaming.read()).services[0].logs == b"two\n"
        streaming.cancel()
        whole = await leases.ServiceLogs(lease_pb2.ServiceLogsRequest(lease_id=lease_id()), metadata=own, timeout=5)
        assert [(s.name, s.logs) for s in whole.services] == [("web-1", b"one\ntwo\n")]
        await asyncio.sleep(0.1)
        assert here.server.gateway.streams.open_by_lease.total() == 0


async def test_status_is_public_and_everything_else_is_not() -> None:
    async with stand(grpc=True, limits=FAST) as here, channel(here) as opened:
        provider, leases = provider_grpc.ProviderRPCStub(opened), lease_grpc.LeaseRPCStub(opened)
        status = await provider.GetStatus(empty_pb2.Empty(), timeout=5)
        assert (status.cluster.leases.active, list(status.public_hostnames)) == (1, ["p1.example.test"])
        assert abs(status.timestamp.seconds - time.time()) < 60
        nobody = Code.UNAUTHENTICATED
        assert (await refused(provider.StreamStatus(empty_pb2.Empty(), timeout=5).read()))[0] == nobody
        asked = lease_pb2.ServiceStatusRequest(lease_id=lease_id())
        other = lease_pb2.ServiceStatusRequest(lease_id=lease_id(LeaseId(PROVIDER.address, 1, 1, 1, PROVIDER.address)))
        assert (await refused(leases.ServiceStatus(asked, timeout=5)))[0] == nobody
        assert (await refused(leases.ServiceStatus(asked, metadata=held(bearer(SCOPED)), timeout=5)))[0] == nobody
        assert (await refused(leases.ServiceStatus(other, metadata=held(bearer()), timeout=5)))[0] == nobody
        logs = lease_pb2.ServiceLogsRequest(lease_id=lease_id())
        assert (await refused(leases.StreamServiceLogs(logs, timeout=5).read()))[0] == nobody
        streaming = provider.StreamStatus(empty_pb2.Empty(), metadata=held(bearer()), timeout=5)
        assert (await streaming.read()).manifest.deployments == 1
        streaming.cancel()
        screening = provider.BidScreening(validation_pb2.BidScreeningRequest(), metadata=held(bearer()), timeout=5)
        assert (await refused(screening))[0] == Code.UNIMPLEMENTED


@pytest.mark.parametrize(
    "header", ["", "x", "Bearer", "Bearer a b", "Bearer a.b.c", "Basic abc", "Bearer " + "a" * 5000]
)
async def test_a_wrong_header_is_an_error_and_no_fault(grpc_here: tuple[Stand, Any], header: str) -> None:
    _, opened = grpc_here
    call = lease_grpc.LeaseRPCStub(opened).ServiceStatus(
        lease_pb2.ServiceStatusRequest(lease_id=lease_id()), metadata=held(header), timeout=5
    )
    code, words = await refused(call)
    assert code in (Code.UNAUTHENTICATED, Code.INVALID_ARGUMENT)
    assert "failed" not in words


@pytest.fixture
async def grpc_here() -> AsyncIterator[tuple[Stand, Any]]:
    async with stand(grpc=True, limits=FAST) as here, channel(here) as opened:
        yield here, opened


async def test_health_and_reflection_answer(grpc_here: tuple[Stand, Any]) -> None:
    _, opened = grpc_here
    healthy = health_pb2_grpc.HealthStub(opened)
    for name in ("", "akash.provider.v1.ProviderRPC", "akash.provider.lease.v1.LeaseRPC"):
        answer = await healthy.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    asking = reflection_pb2_grpc.ServerReflectionStub(opened).ServerReflectionInfo(timeout=5)
    await asking.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    named = {s.name for s in (await asking.read()).list_services_response.service}
    assert {"akash.provider.v1.ProviderRPC", "akash.provider.lease.v1.LeaseRPC"} <= named
    await asking.done_writing()


async def test_a_client_certificate_is_enough_and_a_strange_one_is_cut_off() -> None:
    own, strange = (certs.make(TENANT.address, now_ns=time.time_ns()) for _ in range(2))
    async with stand(grpc=True, limits=FAST) as here:
        publish = codec.create_certificate(TENANT.address, cert_pem=own.cert_pem, pubkey_pem=own.pubkey_pem)
        await here.buyer.done("certificate", publish)
        request = lease_pb2.SendManifestRequest(lease_id=lease_id(), manifest=[group_message()])
        async with channel(here, own) as opened:
            await lease_grpc.LeaseRPCStub(opened).SendManifest(request, timeout=5)
            both = lease_grpc.LeaseRPCStub(opened).SendManifest(request, metadata=held(bearer()), timeout=5)
            assert (await refused(both))[0] == Code.INVALID_ARGUMENT
        async with channel(here, strange) as opened:
            call = lease_grpc.LeaseRPCStub(opened).SendManifest(request, timeout=2)
            assert (await refused(call))[0] in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)


async def test_what_is_refused_has_the_same_words_as_over_rest(grpc_here: tuple[Stand, Any]) -> None:
    _, opened = grpc_here
    leases = lease_grpc.LeaseRPCStub(opened)
    changed = group_message()
    changed.services[0].image = "other:1"
    request = lease_pb2.SendManifestRequest(lease_id=lease_id(), manifest=[changed])
    answer = await refused(leases.SendManifest(request, metadata=held(bearer()), timeout=5))
    assert answer == (Code.INVALID_ARGUMENT, "manifest version validation failed")
    asked = lease_pb2.ServiceStatusRequest(lease_id=lease_id())
    assert (await refused(leases.ServiceStatus(asked, metadata=held(bearer()), timeout=5)))[0] == Code.NOT_FOUND


def node(gpus: int) -> dict[str, Any]:
    amounts = {"cpu": "8", "memory": "16Gi", "ephemeral-storage": "100Gi", "nvidia.com/gpu": str(gpus)}
    labels = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
    status = {"allocatable": amounts, "capacity": amounts, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": labels}, "status": status}


def provider_object(chain: Any) -> dict[str, Any]:
    endpoint = {"rpc": chain.endpoints[0].rpc, "grpc": chain.endpoints[0].grpc}
    return {
        "metadata": {"name": "p", "namespace": "ns", "uid": "1"},
        "spec": {
            "chain": {"chainID": "contract", "endpoints": [endpoint]},
            "wallet": {"secretName": "wallet"},
            "hostURI": "https://p.example.test:8443",
            "pricing": {"gpuUsdPerHour": [{"model": "a100", "usdPerHour": "2"}]},
        },
    }


async def test_a_screening_says_the_price_or_why_there_is_none() -> None:
    screen: list[Screening] = []

    async def screened(group: Any) -> Any:
        return await screen[0](group)

    async with stand(grpc=True, screen=screened) as here, channel(here) as opened:
        cluster: Any = here.cluster
        screen.append(Screening(cluster, here.chain, parse_provider(provider_object(here.chain)), PROVIDER.address))
        stub = provider_grpc.ProviderRPCStub(opened)
        asked = spec_of(manifest.parse(MANIFEST)[0].services[0].resources)
        request = validation_pb2.BidScreeningRequest(group_spec=codec.pb_group_spec(asked))
        assert (await refused(stub.BidScreening(request, timeout=5)))[0] == Code.UNAUTHENTICATED
        answer = await stub.BidScreening(request, metadata=held(bearer()), timeout=5)
        assert (answer.passed, "our GPUs are: none" in answer.reasons[0]) == (False, True)
        here.cluster.put(node(gpus=1))
        answer = await stub.BidScreening(request, metadata=held(bearer()), timeout=5)
        assert (answer.passed, list(answer.reasons), answer.price.denom) == (True, [], "uact")
        assert int(answer.price.amount) > 0
        empty = await stub.BidScreening(validation_pb2.BidScreeningRequest(), metadata=held(bearer()), timeout=5)
        assert not empty.passed
