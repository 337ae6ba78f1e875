"""Every route × every scope × every kind of access, REST and gRPC; and who may come in with a certificate."""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import aiohttp
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gpulease.chain import codec
from gpulease.gateway import auth, certs, serve, tenant, tls
from gpulease.gateway.client import Caller
from gpulease.gateway.jwt import SCOPES
from gpulease.gateway.tls import TlsDoor
from gpulease.pb.akash.provider.lease.v1 import service_pb2 as lease_pb2
from gpulease.pb.akash.provider.lease.v1 import service_pb2_grpc as lease_grpc
from tests.contract.test_chain_client import PROVIDER, TENANT
from tests.contract.test_gateway import DSEQ, LEASE, MANIFEST, Stand, stand
from tests.contract.test_gateway_grpc import channel, group_message, held, lease_id
from tests.contract.test_gateway_limits import bearer, client_context

pytestmark = pytest.mark.contract
LEASE_PATH = f"/lease/{DSEQ}/1/1"
MOVE = {"destination_dseq": DSEQ, "destination_gseq": 1}
ROUTES: list[tuple[str, str, str, str | None]] = [
    ("send-manifest", "PUT", f"/deployment/{DSEQ}/manifest", MANIFEST.decode()),
    ("get-manifest", "GET", f"{LEASE_PATH}/manifest", None),
    ("status", "GET", f"{LEASE_PATH}/status", None),
    ("status", "GET", f"{LEASE_PATH}/service/web/status", None),
    ("logs", "GET", f"{LEASE_PATH}/logs", None),
    ("events", "GET", f"{LEASE_PATH}/kubeevents", None),
    ("shell", "GET", f"{LEASE_PATH}/shell", None),
    ("hostname-migrate", "POST", "/hostname/migrate", json.dumps({"hostnames_to_migrate": ["x.example"], **MOVE})),
    ("ip-migrate", "POST", "/endpoint/migrate", json.dumps({"endpoints_to_migrate": ["x"], **MOVE})),
]
"""Scope, method, path, body. A stream asked for without an upgrade gets 400 once the token is found good."""
OTHER = "akash1axf5x98seuklamgdcfz6srvt2x847kd5sfzqh0"


def granular(provider: str, **fields: Any) -> dict[str, Any]:
    return {"access": "granular", "permissions": [{"provider": provider, **fields}]}


def on(dseq: int, scope: str, **ids: int) -> dict[str, Any]:
    deployment = {"dseq": dseq, "scope": [scope], "services": ["web"], **ids}
    return granular(PROVIDER.address, access="granular", deployments=[deployment])


def tokens() -> Iterator[tuple[str, dict[str, Any], frozenset[str]]]:
    """What it is, the leases claim, and the scopes that it grants on the lease asked for."""
    yield "full", {"access": "full"}, SCOPES
    yield "granular, full", granular(PROVIDER.address, access="full"), SCOPES
    yield "granular, full, another provider", granular(OTHER, access="full"), frozenset()
    for scope in sorted(SCOPES):
        only = frozenset({scope})
        yield f"scoped {scope}", {"access": "scoped", "scope": [scope]}, only
        yield f"granular, scoped {scope}", granular(PROVIDER.address, access="scoped", scope=[scope]), only
        yield f"granular, granular {scope}", on(DSEQ, scope), only
        yield f"granular, granular {scope}, all ids", on(DSEQ, scope, gseq=1, oseq=1), only
        yield f"granular, granular {scope}, another deployment", on(DSEQ + 1, scope), frozenset()
    for scope in ("status", "logs", "hostname-migrate"):
        yield f"granular, granular {scope}, another group", on(DSEQ, scope, gseq=2), frozenset()


async def test_every_route_asks_for_its_scope_whatever_the_access() -> None:
    asked = 0
    async with stand() as here:
        await here.send()
        here.deployed()
        context = ssl._create_unverified_context()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            for what, leases, granted in [*tokens(), ("nothing", None, frozenset())]:
                headers = {} if leases is None else {"Authorization": bearer(leases)}
                for scope, method, path, body in ROUTES:
                    async with session.request(method, here.uri + path, data=body, headers=headers) as answer:
                        text = await answer.text()
                    refused = (answer.status, text) == (401, '{"message":"unauthorized access"}')
                    assert refused is (scope not in granted), (what, path, answer.status, text)
                    asked += 1
    assert asked == len(ROUTES) * (3 + 5 * len(SCOPES) + 3 + 1)


async def test_grpc_asks_for_the_same_scopes() -> None:
    id_ = lease_id()
    async with stand(grpc=True) as here, channel(here) as opened:
        await here.send()
        here.deployed()
        stub = lease_grpc.LeaseRPCStub(opened)
        status, logs = lease_pb2.ServiceStatusRequest(lease_id=id_), lease_pb2.ServiceLogsRequest(lease_id=id_)
        sent = lease_pb2.SendManifestRequest(lease_id=id_, manifest=[group_message()])
        methods: list[tuple[str, Any, Any]] = [
            ("send-manifest", stub.SendManifest, sent),
            ("status", stub.ServiceStatus, status),
            ("status", stub.StreamServiceStatus, status),
            ("logs", stub.ServiceLogs, logs),
            ("logs", stub.StreamServiceLogs, logs),
        ]
        for what, leases, granted in tokens():
            for scope, method, request in methods:
                call = method(request, metadata=held(bearer(leases)), timeout=5)
                try:
                    await (call.read() if hasattr(call, "read") else call)
                    code = grpc.StatusCode.OK
                except grpc.aio.AioRpcError as error:
                    code = error.code()
                call.cancel()
                assert (code is grpc.StatusCode.UNAUTHENTICATED) is (scope not in granted), (what, scope, code)


def peers_certificate(owner: str) -> certs.MadeCertificate:
    """As the peer's command line makes them: the key usage lacks digital signature, which OpenSSL would insist on."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, owner)])
    now = datetime.datetime.now(datetime.UTC)
    flags = ("digital_signature", "content_commitment", "key_agreement", "key_cert_sign", "crl_sign")
    usage = x509.KeyUsage(
        key_encipherment=True,
        data_encipherment=True,
        encipher_only=False,
        decipher_only=False,
        **dict.fromkeys(flags, False),
    )
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(time.time_ns())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certs.read(
        built.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


async def publish(here: Stand, made: certs.MadeCertificate) -> None:
    message = codec.create_certificate(TENANT.address, cert_pem=made.cert_pem, pubkey_pem=made.pubkey_pem)
    await here.buyer.done(f"publish-{made.serial}", message)


async def comes_in(here: Stand, made: certs.MadeCertificate) -> bool:
    try:
        status, _, _ = await here.ask("GET", f"{LEASE_PATH}/status", context=client_context(made))
    except (aiohttp.ClientError, ConnectionError, ssl.SSLError):
        return False
    assert status == 200
    return True


async def test_a_certificate_comes_in_as_soon_as_it_is_on_chain_and_not_once_revoked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "CERTIFICATES_AGE_S", 0.2)
    made = peers_certificate(TENANT.address)
    async with stand() as here:
        await here.send()
        here.deployed()
        assert not await comes_in(here, made)
        await publish(here, made)
        await asyncio.sleep(0.3)
        assert await comes_in(here, made)
        connector = aiohttp.TCPConnector(ssl=client_context(made))
        async with aiohttp.ClientSession(connector=connector) as kept:
            assert (await kept.get(f"{here.uri}{LEASE_PATH}/status")).status == 200
            await here.buyer.done("revoke", codec.revoke_certificate(TENANT.address, serial=made.serial))
            await asyncio.sleep(0.3)
            assert not await comes_in(here, made)
            assert (await kept.get(f"{here.uri}{LEASE_PATH}/status")).status == 401
        assert here.server._guard is not None
        assert here.server._guard.refused_total >= 2  # the client library asks again once


async def test_without_openssls_help_the_tenants_certificates_are_the_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_OPEN_SSL", None)
    monkeypatch.setattr(serve, "ANY_CLIENT", False)
    made = certs.make(TENANT.address, now_ns=time.time_ns())
    async with stand() as here:
        await here.send()
        here.deployed()
        assert not await comes_in(here, made)
        await publish(here, made)
        async with asyncio.timeout(10):
            while not await comes_in(here, made):
                await asyncio.sleep(0.05)


async def test_our_own_client_comes_with_its_certificate_too() -> None:
    made = certs.make(TENANT.address, now_ns=time.time_ns())
    async with stand() as here:
        await publish(here, made)
        await here.send()
        here.deployed()
        here.pod("web-0").write("line")
        calling = Caller(
            here.uri,
            PROVIDER.address,
            TENANT,
            here.published,
            now_s=time.time(),
            timeout_s=10,
            certificate=made,
        )
        assert json.loads(await calling.call("GET", f"{LEASE_PATH}/status", scope="status"))["services"]["web"]
        async with aclosing(tenant.logs(calling, LEASE, follow=True)) as lines:
            assert (await anext(lines)).message == "line"


async def shown(port: int, name: str, own: certs.MadeCertificate) -> bytes:
    """The certificate that the server shows under a name to a client that has one itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(own), server_hostname=name)
    secured = writer.get_extra_info("ssl_object")
    await reader.read()
    der: bytes = secured.getpeercert(binary_form=True)
    writer.close()
    return der


async def test_the_gateways_public_name_has_the_public_certificate() -> None:
    chain, public, own = (
        certs.make(TENANT.address, hosts=("gateway.example",), now_ns=time.time_ns()) for _ in range(3)
    )
    took: list[bytes | None] = []

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        took.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        writer.close()

    door = TlsDoor(chain.cert_pem, chain.key_pem, public_host="gateway.example")
    server = await asyncio.start_server(note, "127.0.0.1", 0, ssl=door.listening)
    port = server.sockets[0].getsockname()[1]
    try:
        before = await shown(port, "gateway.example", own)
        door.change(chain.cert_pem, chain.key_pem, public=(public.cert_pem, public.key_pem))
        after = [await shown(port, name, own) for name in ("GATEWAY.example", "mtls.gateway.example", "other")]
    finally:
        server.close()
        await server.wait_closed()
    wanted, ours = (certs._der(made.cert_pem) for made in (chain, public))
    assert [before, *after] == [wanted, ours, wanted, wanted]
    assert took == [certs._der(own.cert_pem)] * 4


async def test_a_silent_chain_does_not_turn_a_certificate_away() -> None:
    made = certs.make(TENANT.address, now_ns=time.time_ns())
    async with stand() as here:
        await publish(here, made)
        here.port.mute = True
        status, _, text = await here.ask("GET", f"{LEASE_PATH}/status", context=client_context(made))
        assert (status, text) == (503, "no chain endpoint answered\n")


async def test_tokens_and_keys_are_in_no_log(capfd: pytest.CaptureFixture[str]) -> None:
    made = certs.make(TENANT.address, now_ns=time.time_ns())
    async with stand() as here:
        await here.send()
        here.deployed()
        secrets = [bearer(), bearer({"access": "what"}), bearer()[:-4] + "AAAA", "Bearer not.a.token", "Basic abcdef"]
        for secret in secrets:
            for method, path in (("GET", f"{LEASE_PATH}/status"), ("PUT", f"/deployment/{DSEQ}/manifest")):
                await here.ask(method, path, token=secret, body="{" if method == "PUT" else None)
        await comes_in(here, made)
    captured = capfd.readouterr()
    told = captured.out + captured.err
    assert "request_refused" in told
    for secret in secrets:
        assert secret.split()[1] not in told
    assert here.certificate.key_pem.decode() not in told
    assert LEASE.owner in told
