"""Logs, events and a shell through the gateway against a real kubelet: restarts, new pods, exit codes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from gpulease.chain.keys import Key
from gpulease.errors import GatewayRefused
from gpulease.gateway import certs, tenant
from gpulease.gateway.app import Gateway, Identity
from gpulease.gateway.client import Caller
from gpulease.gateway.jwt import Claims
from gpulease.gateway.serve import GatewayServer, certificate_secret
from gpulease.ids import LeaseId
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Ref
from gpulease.market.model import Certificate
from gpulease.workload.names import lease_namespace
from tests.rig.cluster import Rig

pytestmark = pytest.mark.e2e
PROVIDER, TENANT = Key(b"\x11" * 32), Key(b"\x22" * 32)
LEASE = LeaseId(TENANT.address, 77, 1, 1, PROVIDER.address)
NAMESPACE = lease_namespace(LEASE)
LABELS = {"gpulease.dev/service": "web"}
SYSTEM = "gateway-streams"


def deployment(replicas: int) -> dict[str, Any]:
    container = {"name": "web", "image": "localhost/gpulease-demo:1", "imagePullPolicy": "Never"}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": NAMESPACE, "labels": LABELS},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": spec},
        },
    }


@dataclass(slots=True)
class OneCertificate:
    """As much of a chain as the gateway asks for here: the provider's certificate."""

    made: certs.MadeCertificate

    async def certificates(self, owner: str, *, serial: str = "", state: str = "") -> list[Certificate]:
        return [Certificate(PROVIDER.address, self.made.serial, True, self.made.cert_pem, self.made.pubkey_pem)]


async def kubectl(rig: Rig, *words: str, body: object = None) -> str:
    text = None if body is None else json.dumps(body)
    return await asyncio.to_thread(rig.kubectl, *words, input_text=text, timeout_s=90)


@asynccontextmanager
async def hosted(rig: Rig) -> AsyncIterator[Caller]:
    made = certs.make(PROVIDER.address, hosts=("127.0.0.1",), now_ns=time.time_ns())
    for name in (SYSTEM, NAMESPACE):
        await kubectl(
            rig, "apply", "-f", "-", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        )
    secret = certificate_secret("p")
    meta = {"name": secret, "namespace": SYSTEM}
    data = {"tls.crt": made.cert_pem.decode(), "tls.key": made.key_pem.decode()}
    await kubectl(
        rig, "apply", "-f", "-", body={"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": data}
    )
    await kubectl(rig, "apply", "-f", "-", body=deployment(1))
    await kubectl(rig, "rollout", "status", "deployment/web", "-n", NAMESPACE, "--timeout=60s")
    chain: Any = OneCertificate(made)

    async def known(*_: object) -> Claims:
        return Claims(TENANT.address)

    try:
        async with Cluster.connect(str(rig.kubeconfig)) as cluster:
            gateway = Gateway(Identity(PROVIDER.address, SYSTEM), chain=chain, cluster=cluster, now_s=time.time)
            gateway.auth.identify = known  # type: ignore[method-assign,assignment]
            server = GatewayServer(gateway, chain, cluster, Ref("v1", "Secret", secret, SYSTEM), port=0)
            await server.start()
            try:
                uri = f"https://127.0.0.1:{server.port}"
                yield Caller(uri, PROVIDER.address, TENANT, chain.certificates, now_s=time.time(), timeout_s=20)
            finally:
                await server.stop()
    finally:
        await kubectl(rig, "delete", "namespace", SYSTEM, NAMESPACE, "--wait=true")


async def pods(rig: Rig) -> list[str]:
    found = await kubectl(rig, "get", "pods", "-n", NAMESPACE, "-o", "jsonpath={.items[*].metadata.name}")
    return sorted(found.split())


async def test_logs_events_and_a_shell_of_a_real_container(rig: Rig) -> None:
    async with hosted(rig) as caller:
        (first,) = await pods(rig)
        async with asyncio.timeout(60):
            done = await tenant.run(caller, LEASE, service="web", command=["/bin/demo", "env"], timeout_s=20)
            assert (done.exit_code, b"PATH=" in done.stdout, done.stderr) == (0, True, b"")
            coded = await tenant.run(caller, LEASE, service="web", command=["/bin/demo", "exit", "3"], timeout_s=20)
            assert coded.exit_code == 3
            with pytest.raises(GatewayRefused, match="does not exist"):
                await tenant.run(caller, LEASE, service="web", command=["/nope"], timeout_s=20)
            opening = tenant.shell(caller, LEASE, service="web", command=["/bin/demo", "env"], tty=True)
            async with opening as session:
                await session.resize(80, 24)
                shown = b"".join([data async for _, data in session.output()])
            assert (b"\r\n" in shown, session.exit_code) == (True, 0)
            notes = [event["reason"] async for event in tenant.events(caller, LEASE)]
            assert {"Scheduled", "Created", "Started"} <= set(notes)
            lines = [line async for line in tenant.logs(caller, LEASE)]
            assert [line.pod for line in lines] == [first]


async def test_a_followed_log_goes_on_with_the_pod_that_replaces_another(rig: Rig) -> None:
    async with hosted(rig) as caller, asyncio.timeout(120):
        (first,) = await pods(rig)
        async with aclosing(tenant.logs(caller, LEASE, follow=True)) as lines:
            assert (await anext(lines)).pod == first
            await kubectl(rig, "delete", "pod", first, "-n", NAMESPACE)
            second = await anext(lines)
            assert second.pod != first
            assert second.message.startswith("host=")
            await kubectl(rig, "delete", "deployment", "web", "-n", NAMESPACE)
            assert [line async for line in lines] == []
