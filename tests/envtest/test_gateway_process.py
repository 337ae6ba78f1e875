"""``gpulease gateway`` as a process, against a real API server and the embedded chain."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gpulease.chain import codec
from gpulease.devnet.serve import DevnetServer
from gpulease.errors import GatewayRefused
from gpulease.gateway import certs, client, tenant
from gpulease.gateway.serve import certificate_secret
from gpulease.ids import DeploymentId
from gpulease.market import model as m
from gpulease.units import UACT, Coin, Dec, DecCoin
from gpulease.workload import manifest
from gpulease.workload.names import lease_namespace, manifest_secret
from tests.contract.test_chain_client import PROVIDER, TENANT, Party, new_chain
from tests.contract.test_gateway import DSEQ, LEASE, MANIFEST, secret_of, spec_of
from tests.rig.envtest import EnvTest
from tests.rig.process import free_port

pytestmark = pytest.mark.envtest

CRDS = Path(__file__).parents[2] / "crds"
NAMESPACE = "gateway-process"
CAPABLE = m.Attribute("capabilities/gpu/vendor/nvidia/model/a100", "true")


def provider(node: DevnetServer, port: int) -> dict[str, object]:
    return {
        "apiVersion": "gpulease.dev/v1alpha1",
        "kind": "GPUProvider",
        "metadata": {"name": "p", "namespace": NAMESPACE},
        "spec": {
            "chain": {"chainID": "contract", "endpoints": [{"rpc": node.endpoints.rpc, "grpc": node.endpoints.grpc}]},
            "wallet": {"secretName": "wallet"},
            "hostURI": f"https://127.0.0.1:{port}",
            "pricing": {"gpuUsdPerHour": [{"model": "a100", "usdPerHour": "1"}]},
        },
    }


async def kubectl(env: EnvTest, *args: str, body: object = None) -> str:
    text = None if body is None else json.dumps(body)
    return await asyncio.to_thread(env.kubectl, *args, input_text=text)


@asynccontextmanager
async def gateway(env: EnvTest, port: int, metrics: int) -> AsyncIterator[asyncio.subprocess.Process]:
    options = {
        "--provider-object": "p",
        "--kubeconfig": str(env.kubeconfig),
        "--namespace": NAMESPACE,
        "--listen": f"127.0.0.1:{port}",
        "--metrics-port": str(metrics),
        "--grpc-listen": f"127.0.0.1:{free_port()}",
    }
    words = [word for pair in options.items() for word in pair]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "gpulease", "gateway", *words)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 10)


def workload() -> list[dict[str, object]]:
    """What the operator makes for the lease, as far as the gateway looks at it; nothing here runs it."""
    namespace = lease_namespace(LEASE)
    labels = {"gpulease.dev/service": "web"}
    container = {"name": "web", "image": "localhost/none:1"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    meta = {"name": "web", "namespace": namespace, "labels": labels}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec},
    ]


def event(name: str, note: str) -> dict[str, object]:
    namespace = lease_namespace(LEASE)
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "type": "Normal",
        "reason": "Tested",
        "action": "Test",
        "note": note,
        "reportingController": "test",
        "reportingInstance": "test-1",
        "regarding": {"kind": "Pod", "namespace": namespace, "name": "web-1"},
    }


async def streams(env: EnvTest, uri: str, buyer: Party) -> None:
    """Events as they come, and the ends that need no node."""
    for body in (*workload(), event("first", "one")):
        await kubectl(env, "apply", "-f", "-", body=body)
    caller = client.Caller(uri, LEASE.provider, TENANT, buyer.client.certificates, now_s=time.time(), timeout_s=10)
    async with aclosing(tenant.events(caller, LEASE, follow=True)) as events, asyncio.timeout(30):
        assert (await anext(events))["note"] == "one"
        await kubectl(env, "apply", "-f", "-", body=event("second", "two"))
        assert dict(await anext(events)) == {
            "type": "Normal",
            "reportingController": "test",
            "reportingInstance": "test-1",
            "reason": "Tested",
            "note": "two",
            "object": {"kind": "Pod", "namespace": lease_namespace(LEASE), "name": "web-1"},
        }
    with pytest.raises(GatewayRefused, match="no running pods"):
        await anext(tenant.logs(caller, LEASE))
    with pytest.raises(GatewayRefused, match="not running"):
        await tenant.run(caller, LEASE, service="web", command=["x"], timeout_s=10)


async def healthy(metrics: int, wanted: str, *, timeout_s: float = 20.0) -> None:
    """Until /healthz says so."""
    deadline = time.monotonic() + timeout_s
    said = ""
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            try:
                async with session.get(f"http://127.0.0.1:{metrics}/healthz") as answer:
                    said = await answer.text()
                if said.startswith(wanted):
                    return
            except aiohttp.ClientError as error:
                said = str(error)
            await asyncio.sleep(0.1)
    raise AssertionError(f"/healthz never said {wanted!r}, last: {said!r}")


async def test_the_process_serves_and_survives_kill_9(envtest: EnvTest) -> None:
    for name in ("gpuproviders", "gpuleases", "hostedleases"):
        await kubectl(envtest, "apply", "-f", str(CRDS / f"{name}.yaml"))
    await kubectl(envtest, "wait", "--for=condition=Established", "crd/gpuproviders.gpulease.dev", "--timeout=20s")
    await kubectl(envtest, "create", "namespace", NAMESPACE)
    port, metrics = free_port(), free_port()
    async with (
        DevnetServer(new_chain(), block_time_ms=50) as node,
        Party(node, PROVIDER, ":memory:") as seller,
        Party(node, TENANT, ":memory:") as buyer,
    ):
        made = certs.make(PROVIDER.address, hosts=("127.0.0.1",), now_ns=time.time_ns())
        record = m.ProviderRecord(PROVIDER.address, f"https://127.0.0.1:{port}", (CAPABLE,))
        await seller.done("record", codec.provider_record(record, exists=False))
        await seller.done(
            "certificate",
            codec.create_certificate(PROVIDER.address, cert_pem=made.cert_pem, pubkey_pem=made.pubkey_pem),
        )
        groups = manifest.parse(MANIFEST)
        deploy = codec.create_deployment(
            DeploymentId(TENANT.address, DSEQ),
            (spec_of(groups[0].services[0].resources),),
            hash_=manifest.manifest_hash(groups),
            deposit=Coin(UACT, 500_000),
        )
        await buyer.done("deploy", deploy)
        await seller.done(
            "bid", codec.create_bid(LEASE, price=DecCoin(UACT, Dec.of("50")), deposit=Coin(UACT, 500_000))
        )
        await buyer.done("lease", codec.create_lease(LEASE))

        async def send() -> None:
            await client.send_manifest(
                host_uri=f"https://127.0.0.1:{port}",
                provider=PROVIDER.address,
                dseq=DSEQ,
                manifest=MANIFEST,
                key=TENANT,
                certificates=buyer.client.certificates,
                now_s=time.time(),
            )

        async with gateway(envtest, port, metrics) as process:
            await kubectl(envtest, "apply", "-f", "-", body=provider(node, port))
            status = json.dumps({"status": {"address": PROVIDER.address}})
            patch = ("patch", "gpuprovider", "p", "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", status)
            await kubectl(envtest, *patch)
            await healthy(metrics, f"waiting for Secret {NAMESPACE}/{certificate_secret('p')}")
            secret = secret_of(made)
            secret["metadata"]["namespace"] = NAMESPACE
            await kubectl(envtest, "apply", "-f", "-", body=secret)
            await healthy(metrics, "ok")
            await send()
            process.kill()
        async with gateway(envtest, port, metrics) as process:
            await healthy(metrics, "ok")
            await send()
            with pytest.raises(GatewayRefused) as early:
                await client.lease_status(
                    host_uri=f"https://127.0.0.1:{port}",
                    lease=LEASE,
                    key=TENANT,
                    certificates=buyer.client.certificates,
                    now_s=time.time(),
                )
            assert (early.value.status, early.value.text) == (404, "kube: no deployments for lease\n")
            await streams(envtest, f"https://127.0.0.1:{port}", buyer)
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 10) == 0
    name = manifest_secret(lease_namespace(LEASE))
    kept = json.loads(await kubectl(envtest, "get", "secret", name, "-n", NAMESPACE, "-o", "json"))
    assert base64.b64decode(kept["data"]["manifest.json"]) == MANIFEST
    assert kept["metadata"]["annotations"]["gpulease.dev/lease"] == str(LEASE)
