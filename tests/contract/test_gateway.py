"""The gateway over real TLS, on the embedded chain, asked by our own tenant client."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from gpulease.chain import codec
from gpulease.chain.client import ChainClient
from gpulease.chain.keys import Key
from gpulease.devnet.serve import DevnetServer
from gpulease.errors import GatewayRefused, GatewayUnreachable
from gpulease.gateway import certs, client
from gpulease.gateway.app import Gateway, Identity, Limits
from gpulease.gateway.manifests import DATA_KEY
from gpulease.gateway.serve import GatewayServer, Timing, certificate_secret
from gpulease.ids import DeploymentId, LeaseId
from gpulease.kube.refs import Ref
from gpulease.market import model as m
from gpulease.units import UACT, Coin, Dec, DecCoin
from gpulease.workload import manifest
from gpulease.workload.names import lease_namespace, manifest_secret
from tests.contract.test_chain_client import PROVIDER, TENANT, Party, new_chain
from tests.fakes.chain import MuteChain
from tests.fakes.cluster import FakeCluster, FakeLog

pytestmark = pytest.mark.contract

RECORDED = json.loads((Path(__file__).parents[1] / "data/gateway/recorded.json").read_text())
MANIFEST = json.dumps(RECORDED["manifest"]).encode()
DSEQ = int(RECORDED["dseq"])
LEASE = LeaseId(TENANT.address, DSEQ, 1, 1, PROVIDER.address)
STRANGER = Key(b"\x33" * 32)
OPERATOR_NS = "gpulease-system"
GPU = m.Attribute("capabilities/gpu/vendor/nvidia/model/a100", "true")
URI_HOST = "idln1deffpdsh7nkk9j6lsha98.p1.example.test"


def spec_of(service: m.Resources) -> m.GroupSpec:
    unit = m.ResourceUnit(service, 1, DecCoin(UACT, Dec.of("100")))
    return m.GroupSpec("any", m.PlacementRequirements(), (unit,))


@dataclass(slots=True)
class Stand:
    """Everything that runs in one test."""

    server: GatewayServer
    cluster: FakeCluster
    chain: ChainClient
    seller: Party
    buyer: Party
    certificate: certs.MadeCertificate
    port: MuteChain

    @property
    def uri(self) -> str:
        return f"https://127.0.0.1:{self.server.port}"

    async def send(self, raw: bytes = MANIFEST, *, provider: str = PROVIDER.address, key: Key = TENANT) -> None:
        await client.send_manifest(
            host_uri=self.uri,
            provider=provider,
            dseq=DSEQ,
            manifest=raw,
            key=key,
            certificates=self.published,
            now_s=time.time(),
            timeout_s=5,
        )

    async def published(self, owner: str) -> list[m.Certificate]:
        return await self.chain.certificates(owner, state="valid")

    async def ask(
        self, method: str, path: str, *, token: str | None = None, body: str | None = None, context: Any = None
    ) -> tuple[int, Mapping[str, str], str]:
        if context is None:
            context = ssl._create_unverified_context()
        headers = {} if token is None else {"Authorization": token}
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
            session.request(method, self.uri + path, headers=headers, data=body) as answer,
        ):
            return answer.status, dict(answer.headers), await answer.text()

    def deployed(self) -> None:
        meta = {
            "name": "web",
            "namespace": lease_namespace(LEASE),
            "labels": {"gpulease.dev/service": "web"},
            "annotations": {"gpulease.dev/uris": URI_HOST},
        }
        counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "observedGeneration")
        status = dict.fromkeys(counts, 1)
        self.cluster.put({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "status": status})

    def pod(self, name: str, *, service: str = "web", phase: str = "Running") -> FakeLog:
        """A pod of the lease and its log."""
        labels = {"gpulease.dev/service": service}
        meta = {"name": name, "namespace": lease_namespace(LEASE), "labels": labels, "uid": f"uid-{name}"}
        ready = {"type": "Ready", "status": "True" if phase == "Running" else "False"}
        status = {"phase": phase, "conditions": [ready]}
        self.cluster.put({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": status})
        return self.cluster.log_of(lease_namespace(LEASE), name)

    @asynccontextmanager
    async def socket(
        self, path: str, *, token: str | None = None, context: Any = None, **headers: str
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """``aiohttp.WSServerHandshakeError`` when it is refused."""
        given = headers | ({} if token is None else {"Authorization": token})
        connector = aiohttp.TCPConnector(ssl=context or ssl._create_unverified_context())
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.ws_connect(URL(self.uri + path, encoded=True), headers=given) as opened,
        ):
            yield opened


def secret_of(made: certs.MadeCertificate) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": certificate_secret("p"), "namespace": OPERATOR_NS},
        "data": {
            "tls.crt": base64.b64encode(made.cert_pem).decode(),
            "tls.key": base64.b64encode(made.key_pem).decode(),
        },
    }


@asynccontextmanager
async def stand(
    *,
    lease: bool = True,
    limits: Limits | None = None,
    grpc: bool = False,
    timing: Timing | None = None,
    screen: Any = None,
) -> AsyncIterator[Stand]:
    cluster = FakeCluster()
    async with (
        DevnetServer(new_chain(), block_time_ms=30) as node,
        Party(node, PROVIDER, ":memory:") as seller,
        Party(node, TENANT, ":memory:") as buyer,
    ):
        made = certs.make(PROVIDER.address, hosts=("localhost", "127.0.0.1"), now_ns=time.time_ns())
        record = m.ProviderRecord(PROVIDER.address, "https://p.example.test:8443", (GPU,))
        await seller.done("record", codec.provider_record(record, exists=False))
        publish = codec.create_certificate(PROVIDER.address, cert_pem=made.cert_pem, pubkey_pem=made.pubkey_pem)
        await seller.done("certificate", publish)
        groups = manifest.parse(MANIFEST)
        did = DeploymentId(TENANT.address, DSEQ)
        await buyer.done(
            "deploy",
            codec.create_deployment(
                did,
                (spec_of(groups[0].services[0].resources),),
                hash_=manifest.manifest_hash(groups),
                deposit=Coin(UACT, 500_000),
            ),
        )
        if lease:
            price = DecCoin(UACT, Dec.of("50"))
            await seller.done("bid", codec.create_bid(LEASE, price=price, deposit=Coin(UACT, 500_000)))
            await buyer.done("lease", codec.create_lease(LEASE))
        cluster.put(secret_of(made))
        port = MuteChain(seller.client)
        gateway = Gateway(
            Identity(PROVIDER.address, OPERATOR_NS, "p1.example.test"),
            chain=port,
            cluster=cluster,
            now_s=time.time,
            limits=limits,
        )
        server = GatewayServer(
            gateway,
            port,
            cluster,
            Ref("v1", "Secret", certificate_secret("p"), OPERATOR_NS),
            port=0,
            grpc=("127.0.0.1", 0) if grpc else None,
            screen=screen,
            timing=Timing(certificate_poll_s=0.05, head_s=0.3, status_poll_s=0.05, grace_s=0.2),
        )
        await server.start()
        try:
            yield Stand(server, cluster, buyer.client, seller, buyer, made, port)
        finally:
            await server.stop()


async def test_a_manifest_is_kept_for_the_operator_and_the_lease_reports() -> None:
    async with stand() as here:
        with pytest.raises(GatewayRefused) as early:
            await client.lease_status(
                host_uri=here.uri, lease=LEASE, key=TENANT, certificates=here.published, now_s=time.time()
            )
        assert early.value.status == 404
        await here.send()
        await here.send()
        secret = here.cluster.objects[Ref("v1", "Secret", manifest_secret(lease_namespace(LEASE)), OPERATOR_NS)]
        assert base64.b64decode(secret["data"][DATA_KEY]) == MANIFEST
        assert secret["metadata"]["labels"]["gpulease.dev/manifest"] == "true"
        assert secret["metadata"]["annotations"] == {
            "gpulease.dev/lease": str(LEASE),
            "gpulease.dev/group": "any",
            "gpulease.dev/manifest-hash": manifest.manifest_hash(manifest.parse(MANIFEST)).hex(),
        }
        here.deployed()
        body = await client.lease_status(
            host_uri=here.uri, lease=LEASE, key=TENANT, certificates=here.published, now_s=time.time()
        )
        assert body["services"]["web"]["available"] == 1
        assert body["services"]["web"]["uris"] == [URI_HOST]


async def test_what_is_not_the_chains_manifest_is_refused_and_nothing_is_kept() -> None:
    async with stand() as here:
        with pytest.raises(GatewayRefused, match="validation failed") as other:
            await here.send(MANIFEST.replace(b"localhost/busybox:1", b"other:1"))
        assert other.value.status == 422
        with pytest.raises(GatewayRefused) as stranger:
            await here.send(key=STRANGER)
        assert stranger.value.status == 401
        assert here.cluster.applied == []


async def test_without_a_lease_the_answer_is_the_one_that_clients_wait_on() -> None:
    async with stand(lease=False) as here:
        with pytest.raises(GatewayRefused, match="no lease for deployment") as early:
            await here.send()
        assert early.value.status == 404
        assert here.cluster.applied == []


async def test_a_server_without_the_providers_certificate_gets_no_token() -> None:
    async with stand() as here:
        with pytest.raises(GatewayUnreachable, match="names"):
            await here.send(provider=STRANGER.address)
        forged = certs.make(PROVIDER.address, hosts=("127.0.0.1",), now_ns=time.time_ns())
        here.cluster.put(secret_of(forged))
        await asyncio.sleep(0.2)
        with pytest.raises(GatewayUnreachable, match="not among the valid ones"):
            await here.send()
        assert here.server.gateway.requests_total == {}
        here.cluster.put(secret_of(here.certificate))
        await asyncio.sleep(0.2)
        await here.send()
