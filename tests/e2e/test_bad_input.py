"""Bad input gets a sentence where its sender looks, and loses nothing: each on a real cluster, chain and gateway."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Iterator

import pytest

from gpulease.chain.client import ChainClient, Endpoint
from gpulease.chain.keys import Key
from gpulease.errors import GatewayRefused
from gpulease.gateway.client import send_manifest
from gpulease.ids import LeaseId
from gpulease.workload.names import hosted_name, lease_namespace, manifest_secret
from tests.e2e.told import delete, deployment_of, lease, wait_ready, wait_told
from tests.rig.chainview import OnChain
from tests.rig.cluster import Rig
from tests.rig.stack import OPERATOR_NAMESPACE, TENANT_NAMESPACE, Json, OnRig, Ports, Stack, until
from tests.rig.web import get_text, metric_sum

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def stack(rig: Rig) -> Iterator[Stack]:
    """Chain, agent, operator and gateway, with a provider that is ready."""
    made = Stack(
        OnRig(rig),
        name="bad-input",
        ports=Ports.free(),
        block_time_ms=400,
        operator_env={"GPULEASE_RESYNC_INTERVAL_S": "5", "GPULEASE_LOG_LEVEL": "debug"},
    )
    try:
        made.start_chain()
        made.install()
        made.start_agent()
        made.start_operator()
        made.start_gateway()
        made.apply_example("provider.yaml")
        wait_ready(made, "demo", kind="gpuprovider", namespace=OPERATOR_NAMESPACE)
        until("the gateway listening", made.gateway_listens, timeout_s=30)
        yield made
    finally:
        made.down()
        made.erase()


def declined(stack: Stack, reason: str) -> float:
    text = get_text(f"{stack.operator_url}/metrics")
    return metric_sum(text, "gpulease_orders_declined_total", reason=reason) or 0.0


def leased(stack: Stack, name: str) -> LeaseId:
    owner, dseq = stack.address("tenant"), deployment_of(stack, name)

    def look() -> OnChain | None:
        return next((x for x in stack.chain.leases(owner) if x.id["dseq"] == dseq), None)

    found = until(f"a lease for {name}", look, timeout_s=60).id
    return LeaseId(found["owner"], int(found["dseq"]), int(found["gseq"]), int(found["oseq"]), found["provider"])


def test_a_gpu_that_nobody_has_is_told_with_what_there_is(stack: Stack) -> None:
    """No bid, why in the provider's metrics and debug log, and the tenant reads what would match."""
    before = declined(stack, "no_matching_gpu_model")
    spent = stack.chain.balances(stack.address("tenant"))["uact"]

    def h200(body: Json) -> None:
        body["spec"]["services"][0]["resources"]["gpu"]["models"] = [{"model": "h200"}]

    lease(stack, "nobody-has", h200)
    words = wait_told(stack, "nobody-has", "NoBids")
    assert "1 × h200" in words
    assert "On offer: a100 80Gi sxm" in words
    assert declined(stack, "no_matching_gpu_model") == before + 1
    log = stack.log("operator").read_text()
    assert "the order asks for h200; our GPUs are: a100 80Gi sxm" in log
    delete(stack, "nobody-has")
    assert stack.chain.balances(stack.address("tenant"))["uact"] == spent


def test_a_price_that_is_too_low_is_told_with_the_limit(stack: Stack) -> None:
    before = declined(stack, "price_too_low")

    def cheap(body: Json) -> None:
        body["spec"]["maxUsdPerHour"] = "0.10"

    lease(stack, "too-cheap", cheap)
    words = wait_told(stack, "too-cheap", "NoBids")
    assert "raise maxUsdPerHour" in words
    assert declined(stack, "price_too_low") == before + 1
    delete(stack, "too-cheap")


def test_a_missing_an_unreadable_and_an_empty_wallet_are_told_apart(stack: Stack) -> None:
    def no_wallet(body: Json) -> None:
        body["spec"]["wallet"] = {"secretName": "late-wallet"}

    lease(stack, "walletless", no_wallet)
    words = wait_told(stack, "walletless", "WalletMissing")
    assert "kubectl -n team-a create secret generic late-wallet" in words

    stack.make_wallet(TENANT_NAMESPACE, "late-wallet", "not a key")
    assert "holds no usable key" in wait_told(stack, "walletless", "WalletInvalid")

    stack.make_wallet(TENANT_NAMESPACE, "late-wallet", stack.key("tenant")[1])
    deployment_of(stack, "walletless")
    delete(stack, "walletless")


def test_an_account_without_funds_is_told_what_it_lacks(stack: Stack) -> None:
    secret = secrets.token_bytes(32)
    stack.make_wallet(TENANT_NAMESPACE, "poor-wallet", secret.hex())

    def poor(body: Json) -> None:
        body["spec"]["wallet"] = {"secretName": "poor-wallet"}

    lease(stack, "poor", poor)
    words = wait_told(stack, "poor", "InsufficientFunds")
    assert Key(secret).address in words
    assert "500000uact for the deposit" in words
    delete(stack, "poor")
    assert secret.hex() not in stack.log("operator").read_text()


def test_a_wrong_chain_id_is_told_with_both_names(stack: Stack) -> None:
    def elsewhere(body: Json) -> None:
        body["spec"]["chain"]["chainID"] = "another-chain"

    lease(stack, "elsewhere", elsewhere)
    words = wait_told(stack, "elsewhere", "ChainMismatch")
    assert "another-chain" in words
    assert stack.chain_id in words
    delete(stack, "elsewhere")


def test_a_manifest_that_differs_is_refused_and_changes_nothing(stack: Stack) -> None:
    lease(stack, "differs")
    wait_ready(stack, "differs")
    id_ = leased(stack, "differs")
    space = lease_namespace(id_)
    kept = stack.get("secret", manifest_secret(space), OPERATOR_NAMESPACE)
    assert kept is not None
    groups = json.loads(base64.b64decode(kept["data"]["manifest.json"]))
    groups[0]["services"][0]["env"] = ["STOLEN=1"]
    changed = json.dumps(groups, separators=(",", ":")).encode()
    pods = stack.items("pod", space)

    async def send() -> None:
        _, secret = stack.key("tenant")
        endpoint = Endpoint(stack.chain.rpc, f"127.0.0.1:{stack.ports.grpc}")
        async with ChainClient([endpoint], stack.chain_id) as chain:
            await send_manifest(
                host_uri=stack.gateway_url,
                provider=id_.provider,
                dseq=id_.dseq,
                manifest=changed,
                key=Key.from_hex(secret),
                certificates=lambda owner: chain.certificates(owner, state="valid"),
                now_s=stack.chain.block_time_s(stack.chain.height()),
            )

    with pytest.raises(GatewayRefused) as refused:
        asyncio.run(send())
    assert refused.value.status == 422
    assert "manifest version validation failed" in refused.value.text
    assert stack.get("secret", manifest_secret(space), OPERATOR_NAMESPACE)["data"] == kept["data"]  # type: ignore[index]
    assert [p["metadata"]["uid"] for p in stack.items("pod", space)] == [p["metadata"]["uid"] for p in pods]
    delete(stack, "differs")


def test_a_manifest_that_chooses_devices_is_refused_with_the_reason(stack: Stack) -> None:
    def grabs(body: Json) -> None:
        body["spec"]["services"][0]["env"] = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]

    lease(stack, "grabs", grabs)
    words = wait_told(stack, "grabs", "ManifestNotAccepted")
    assert "NVIDIA_VISIBLE_DEVICES" in words
    assert "remove it from env" in words
    delete(stack, "grabs")


def test_an_image_that_cannot_be_pulled_is_told_with_the_kubelets_reason(stack: Stack) -> None:
    def nowhere(body: Json) -> None:
        body["spec"]["services"][0]["image"] = "localhost/nowhere:1"

    lease(stack, "nowhere", nowhere)
    id_ = leased(stack, "nowhere")
    words = wait_told(stack, hosted_name(id_), "ImagePullBackOff", kind="hostedlease", namespace=OPERATOR_NAMESPACE)
    assert "image localhost/nowhere:1 cannot be pulled (ErrImagePull)" in words
    assert "check the image's name and tag" in words
    tenant = wait_told(stack, "nowhere", "ImagePullBackOff")
    assert "localhost/nowhere:1" in tenant
    delete(stack, "nowhere")


def test_a_chain_that_is_down_at_start_is_waited_for_and_no_lease_suffers(stack: Stack) -> None:
    lease(stack, "survivor")
    wait_ready(stack, "survivor")
    id_ = leased(stack, "survivor")
    space = lease_namespace(id_)
    (pod,) = stack.items("pod", space)
    stack.stop("operator")
    stack.stop("devnet")
    stack.start_operator()
    words = wait_told(stack, "demo", "ChainUnreachable", kind="gpuprovider", namespace=OPERATOR_NAMESPACE)
    assert "It is tried again" in words
    wait_told(stack, "survivor", "ChainUnreachable")
    stack.start_chain()
    wait_ready(stack, "demo", kind="gpuprovider", namespace=OPERATOR_NAMESPACE)
    wait_ready(stack, "survivor")
    (after,) = stack.items("pod", space)
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0
    assert next(x for x in stack.chain.leases(id_.owner) if x.id["dseq"] == str(id_.dseq)).state == "active"
    delete(stack, "survivor")
