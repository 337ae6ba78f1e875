"""What a gateway does when something is wrong: silence, bodies too large, clients that stall, broken proof."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import bech32
import pytest

from gpulease.chain import codec
from gpulease.errors import GatewayRefused, GatewayUnreachable
from gpulease.gateway import certs, client, jwt
from gpulease.gateway.app import Gateway, Identity, Limits
from gpulease.gateway.rates import Rate
from gpulease.gateway.serve import GatewayServer, Timing, certificate_secret
from gpulease.kube.refs import Ref
from gpulease.workload.names import lease_namespace
from tests.contract.test_chain_client import PROVIDER, TENANT
from tests.contract.test_gateway import DSEQ, LEASE, MANIFEST, OPERATOR_NS, URI_HOST, Stand, secret_of, stand
from tests.fakes.cluster import FakeCluster

pytestmark = pytest.mark.contract
STATUS = f"/lease/{DSEQ}/1/1/status"


def bearer(leases: dict[str, object] | None = None) -> str:
    now_s = int(time.time())
    text = jwt.issue(TENANT, leases=leases or {"access": "full"}, not_before_s=now_s - 9, expires_s=now_s + 60)
    return f"Bearer {text}"


async def test_silence_of_the_cluster_is_503_and_not_absence() -> None:
    async with stand() as here:
        here.cluster.down = True
        for path in (STATUS, f"/lease/{DSEQ}/1/1/service/web/status", "/version", "/status"):
            status, _, text = await here.ask("GET", path, token=bearer())
            assert (status, text) == (503, "the API server did not answer\n"), path
        with pytest.raises(GatewayRefused) as refused:
            await here.send()
        assert refused.value.status == 503


async def test_silence_of_the_chain_is_503_and_not_an_unknown_account() -> None:
    async with stand() as here:
        here.port.mute = True
        status, headers, text = await here.ask("GET", STATUS, token=bearer())
        assert (status, headers["Content-Type"]) == (503, "text/plain; charset=utf-8")
        assert text == "no chain endpoint answered\n"
        here.port.mute = False
        assert (await here.ask("GET", STATUS, token=bearer()))[0] == 404
        here.port.mute = True
        path = f"/deployment/{DSEQ}/manifest"
        assert (await here.ask("PUT", path, token=bearer(), body="{"))[0] == 422
        assert (await here.ask("PUT", path, token=bearer(), body=MANIFEST.decode()))[0] == 503
        assert here.cluster.applied == []


async def test_an_issuer_that_is_no_account_is_an_invalid_token() -> None:
    issuers = (bech32.bech32_encode("akash", [1] * 8), "akash1nwzawwhu754u3dpl8lu3dx4nzvu0m7q6pa9ljl", "", "x")
    parts = bearer().removeprefix("Bearer ").split(".")
    async with stand() as here:
        for issuer in issuers:
            body = {**jwt.read(".".join(parts)).body, "iss": issuer}
            held = f"Bearer {parts[0]}.{jwt._part(json.dumps(body).encode())}.{parts[2]}"
            status, _, text = await here.ask("GET", STATUS, token=held)
            assert (status, text) == (401, '{"message":"JWT is invalid"}'), issuer


async def test_a_fault_of_ours_is_a_sentence_without_insides(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret words")

    async with stand() as here:
        monkeypatch.setattr(here.cluster, "version", broken)
        status, _, text = await here.ask("GET", "/version")
        assert (status, text) == (500, "the gateway failed; the provider has it in the log\n")


async def test_a_body_too_large_gets_a_sentence() -> None:
    async with stand(limits=Limits(body_bytes=2000)) as here:
        with pytest.raises(GatewayRefused, match="larger than 2000 bytes") as refused:
            await here.send(MANIFEST + b" " * 4000)
        assert refused.value.status == 413


async def test_a_body_that_never_ends_is_given_up() -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"["
        await asyncio.sleep(5)

    async with (
        stand(limits=Limits(body_s=0.1)) as here,
        aiohttp.ClientSession() as session,
        session.put(
            f"{here.uri}/deployment/{DSEQ}/manifest",
            data=slowly(),
            headers={"Authorization": bearer()},
            ssl=ssl._create_unverified_context(),
        ) as answer,
    ):
        assert answer.status == 408


async def test_a_connection_without_a_request_is_cut() -> None:
    async with stand() as here:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", here.server.port, ssl=ssl._create_unverified_context()
        )
        writer.write(b"GET /status HTTP/1.1\r\nHost:")
        began = time.monotonic()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError, ssl.SSLError)):
            await asyncio.wait_for(reader.readexactly(1), 3)
        assert time.monotonic() - began < 2
        writer.close()
        await asyncio.sleep(0.05)
        assert here.server.connections == 0


async def test_above_the_limit_a_request_is_turned_away() -> None:
    async with stand(limits=Limits(requests_at_once=0)) as here:
        status, _, text = await here.ask("GET", "/address")
        assert (status, text) == (503, "too many requests at once; try again in a moment\n")


async def test_whoever_asks_too_often_is_told_to_wait_and_others_are_not() -> None:
    slow = Rate(0.5, 3)
    async with stand(limits=Limits(per_owner=slow)) as here:
        answers = [await here.ask("GET", STATUS, token=bearer()) for _ in range(4)]
        assert [status for status, _, _ in answers] == [404, 404, 404, 429]
        assert answers[3][1]["Retry-After"] == "1"
        assert (await here.ask("GET", "/address"))[0] == 200
    async with stand(limits=Limits(per_address=slow)) as here:
        assert [(await here.ask("GET", "/address"))[0] for _ in range(4)] == [200, 200, 200, 429]


async def test_a_service_with_a_host_name_is_told_with_all_of_the_leases() -> None:
    async with stand() as here:
        here.deployed()
        ref = Ref("apps/v1", "Deployment", "web", lease_namespace(LEASE))
        for name, uris in (("api", "b.example"), ("db", "")):
            body = json.loads(json.dumps(here.cluster.objects[ref]))
            body["metadata"] |= {"name": name, "labels": {"gpulease.dev/service": name}}
            body["metadata"]["annotations"] = {"gpulease.dev/uris": uris}
            here.cluster.put(body)
        for name, wanted in (("web", ["b.example", URI_HOST]), ("api", ["b.example", URI_HOST]), ("db", None)):
            _, _, text = await here.ask("GET", f"/lease/{DSEQ}/1/1/service/{name}/status", token=bearer())
            assert json.loads(text)["uris"] == wanted


async def test_tls_1_2_is_refused() -> None:
    async with stand() as here:
        context = ssl._create_unverified_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(aiohttp.ClientError):
            await here.ask("GET", "/address", context=context)


async def test_a_token_that_names_services_shows_only_those() -> None:
    deployments = [{"dseq": DSEQ, "scope": ["status", "get-manifest"], "services": ["db"]}]
    permission = {"provider": PROVIDER.address, "access": "granular", "deployments": deployments}
    held = bearer({"access": "granular", "permissions": [permission]})
    async with stand() as here:
        await here.send()
        here.deployed()
        _, _, text = await here.ask("GET", STATUS, token=held)
        assert text == '{"services":{},"forwarded_ports":null,"ips":null}'
        _, _, text = await here.ask("GET", f"/lease/{DSEQ}/1/1/manifest", token=held)
        assert text == '[{"name":"any","services":[]}]'
        status, _, _ = await here.ask("GET", f"/lease/{DSEQ}/1/1/service/web/status", token=held)
        assert status == 401


def client_context(made: certs.MadeCertificate) -> ssl.SSLContext:
    context: ssl.SSLContext = ssl._create_unverified_context()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.pem"
        path.write_bytes(made.cert_pem + made.key_pem)
        context.load_cert_chain(path)
    return context


async def test_a_registered_client_certificate_is_its_owners_full_right() -> None:
    made = certs.make(TENANT.address, now_ns=time.time_ns())
    async with stand() as here:
        await here.buyer.done(
            "certificate",
            codec.create_certificate(TENANT.address, cert_pem=made.cert_pem, pubkey_pem=made.pubkey_pem),
        )
        await here.send()
        here.deployed()
        await asyncio.sleep(0.3)
        context = client_context(made)
        status, _, text = await here.ask("GET", STATUS, context=context)
        assert (status, '"web"' in text) == (200, True)
        status, _, text = await here.ask("GET", STATUS, context=context, token=bearer())
        assert status == 400
        assert "ambiguous" in text


async def test_a_client_certificate_that_is_not_on_chain_is_refused() -> None:
    made = certs.make(TENANT.address, now_ns=time.time_ns())
    async with stand() as here:
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            await here.ask("GET", STATUS, context=client_context(made))


async def test_nobody_there_is_unreachable() -> None:
    async with stand() as here:
        port = here.server.port
        await here.server.stop()
        with pytest.raises(GatewayUnreachable, match="cannot be reached"):
            await client.lease_status(
                host_uri=f"https://127.0.0.1:{port}",
                lease=LEASE,
                key=TENANT,
                certificates=here.published,
                now_s=time.time(),
                timeout_s=2,
            )


async def test_it_waits_for_its_certificate_and_says_so() -> None:
    async with stand() as here:
        cluster = FakeCluster()
        ref = Ref("v1", "Secret", certificate_secret("p"), OPERATOR_NS)
        server = second_server(here, cluster, ref)
        starting = asyncio.create_task(server.start())
        await asyncio.sleep(0.1)
        assert await health(server) == (503, f"waiting for {ref}\n")
        cluster.put(secret_of(here.certificate))
        await asyncio.wait_for(starting, 2)
        assert await health(server) == (200, "ok\n")
        await server.stop()


def second_server(here: Stand, cluster: FakeCluster, ref: Ref) -> GatewayServer:
    gateway = Gateway(
        Identity(PROVIDER.address, OPERATOR_NS), chain=here.seller.client, cluster=cluster, now_s=time.time
    )
    return GatewayServer(
        gateway, here.seller.client, cluster, ref, port=0, timing=Timing(certificate_poll_s=0.05, head_s=0.3)
    )


async def health(server: GatewayServer) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.metrics_port}/healthz") as answer,
    ):
        return answer.status, await answer.text()


async def test_metrics_count_answers_by_route() -> None:
    async with stand() as here:
        await here.ask("GET", "/address")
        await here.ask("GET", "/nope")
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{here.server.metrics_port}/metrics") as answer,
        ):
            text = await answer.text()
        assert 'gpulease_gateway_requests_total{route="/address",status="200"} 1' in text
        assert 'gpulease_gateway_requests_total{route="unknown",status="404"} 1' in text
        assert "gpulease_gateway_requests_in_flight 0" in text


def test_the_key_is_on_no_disk_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gpulease.gateway import tls

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = certs.make(PROVIDER.address, hosts=("localhost",), now_ns=1_800_000_000 * 10**9)
    tls.server_context(made.cert_pem, made.key_pem)
    assert os.listdir(tmp_path) == []
