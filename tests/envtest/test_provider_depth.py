"""The provider's side on a real API server and the embedded chain: a node that is an object, an agent in a thread.

There is no kubelet, so no pod runs; what the operator writes, says and sends is real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gpulease.agent.model import Device, Xid
from gpulease.ids import LeaseId
from gpulease.meter.intervals import Allocation
from gpulease.workload.names import hosted_name, lease_namespace
from tests.demo.story import LEASE, Story
from tests.envtest.stack_env import OnEnvTest
from tests.fakes.agent import AgentThread, Sources
from tests.rig.envtest import EnvTest
from tests.rig.errors import RigError
from tests.rig.process import free_port
from tests.rig.stack import OPERATOR_NAMESPACE, Json, Ports, Stack, until
from tests.rig.web import get_text

pytestmark = pytest.mark.envtest
NODE, PRODUCT = "gpu-node-1", "NVIDIA-A100-SXM4-80GB"
PATIENCE_S = 40.0
UUIDS = ("GPU-aaaa", "GPU-bbbb")


def node_body() -> Json:
    labels = {"nvidia.com/gpu.product": PRODUCT, "nvidia.com/gpu.count": "2", "kubernetes.io/hostname": NODE}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}}


def node_status(gpus: int) -> Json:
    amounts = {"cpu": "32", "memory": "256Gi", "ephemeral-storage": "500Gi", "pods": "110"}
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "posing",
        "lastHeartbeatTime": "2026-01-01T00:00:00Z",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    return {
        "status": {
            "allocatable": {**amounts, "nvidia.com/gpu": str(gpus)},
            "capacity": {**amounts, "nvidia.com/gpu": "2"},
            "conditions": [ready],
        }
    }


def provider_terms(body: Json) -> None:
    body["spec"].setdefault("bidding", {})["reclamationWindowSeconds"] = 3600
    body["spec"]["capacity"] = {"overcommit": {"cpuPercent": 100}}


@dataclass
class Shop:
    env: EnvTest
    story: Story
    sources: Sources

    @property
    def stack(self) -> Stack:
        return self.story.stack

    def kubectl(self, *words: str, body: Any = None) -> str:
        return self.env.kubectl(*words, input_text=None if body is None else json.dumps(body))

    def provider(self) -> Json:
        return self.stack.get("gpuprovider", LEASE, OPERATOR_NAMESPACE) or {}

    def hosted(self) -> Json:
        return self.stack.get("hostedlease", hosted_name(self.story.lease_id()), OPERATOR_NAMESPACE) or {}

    def set_gpus(self, gpus: int) -> None:
        self.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", "-p", json.dumps(node_status(gpus)))

    def wait(self, kind: str, reason: str, *, of_lease: bool = False) -> Json:
        def look() -> Json:
            body = self.hosted() if of_lease else self.provider()
            all_ = (body.get("status") or {}).get("conditions") or ()
            found: Json | None = next((c for c in all_ if c["type"] == kind), None)
            if found is None or found["reason"] != reason:
                raise RigError(f"{kind} is {found}; others: {[(c['type'], c['reason']) for c in all_]}")
            return found

        alive = self.stack.processes.values()
        seen: Json = until(f"{kind} being {reason}", look, timeout_s=PATIENCE_S, alive=alive)
        return seen


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """On an API server of its own: what other tests leave in the session's would be this operator's too."""
    with EnvTest() as envtest:
        yield from _shop(envtest, tmp_path_factory)


def _shop(envtest: EnvTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("depth")
    (folder / "logs").mkdir()
    (folder / "run").mkdir()
    token = folder / "token"
    token.write_text("secret-of-the-test")
    envtest.kubectl("create", "-f", "-", input_text=json.dumps(node_body()))
    # Admission marks every new node as not ready, and there is no controller to take that back.
    envtest.kubectl("patch", "node", NODE, "--type=json", "-p", '[{"op": "remove", "path": "/spec/taints"}]')
    sources = Sources(tuple(Device(u, i, PRODUCT, 80 << 30) for i, u in enumerate(UUIDS)))
    with AgentThread(NODE, sources, data=folder / "agent", port=free_port(), token=token.read_text()) as agent:
        cluster = OnEnvTest(envtest, folder, node=NODE, agents={NODE: agent.url}, token_file=token)
        fast = {"GPULEASE_RESYNC_INTERVAL_S": "1", "GPULEASE_AGENT_POLL_INTERVAL_S": "0.5"}
        stack = Stack(cluster, name="depth", ports=Ports.free(), block_time_ms=500, operator_env=fast)
        story = Story(stack, change_provider=provider_terms)
        made = Shop(envtest, story, sources)
        made.set_gpus(2)
        try:
            for step in (
                story.chain_up,
                story.installed,
                story.operator_up,
                story.provider_registered,
                story.gateway_up,
                story.ordered,
                story.bid_made,
                story.leased,
                story.manifest_taken,
            ):
                step()
            until("the workload applied", lambda: deployment(made), timeout_s=PATIENCE_S)
            sources.held = frozenset({Allocation(story.facts.namespace, "web-0", "web", UUIDS[0])})
            yield made
        finally:
            stack.down()
            envtest.kubectl("delete", "node", NODE, "--ignore-not-found")


def deployment(shop: Shop) -> Json | None:
    return shop.stack.get("deployment", "web", shop.story.facts.namespace)


def test_a_bid_fixes_node_and_terms_of_the_pods(shop: Shop) -> None:
    found = deployment(shop)
    assert found is not None
    pod = found["spec"]["template"]["spec"]
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [NODE]}]}]
    resources = pod["containers"][0]["resources"]
    assert (resources["limits"]["cpu"], resources["requests"]["cpu"]) == ("500m", "250m"), "over-commit is in the bid"
    assert resources["limits"]["nvidia.com/gpu"] == "1"


def test_a_lease_at_rest_costs_the_api_server_nothing(shop: Shop) -> None:
    def writes() -> float:
        lines = get_text(f"{shop.stack.operator_url}/metrics").splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith("gpulease_api_writes_total{"))

    until("the lease's first status", lambda: shop.hosted().get("status"), timeout_s=PATIENCE_S)
    height, before = shop.stack.chain.height(), writes()
    until("twenty blocks", lambda: shop.stack.chain.height() > height + 20, timeout_s=PATIENCE_S)
    assert writes() == before


def test_an_applications_fault_is_told_and_nothing_is_quarantined(shop: Shop) -> None:
    until(
        "the lease holding its device",
        lambda: (shop.hosted().get("status") or {}).get("deviceUUIDs"),
        timeout_s=PATIENCE_S,
    )
    shop.sources.xids.append(Xid(UUIDS[0], 31))
    found = shop.wait("DeviceHealthy", "ApplicationFault", of_lease=True)
    assert (found["status"], "XID 31" in found["message"]) == ("True", True)
    shop.wait("DevicesHealthy", "NoneQuarantined")
    events = shop.stack.items("event", shop.story.facts.namespace)
    assert [e["involvedObject"]["name"] for e in events if e["reason"] == "ApplicationFault"] == ["web"]


def test_a_hardware_fault_takes_one_of_two_devices_out_and_credits_the_lease(shop: Shop) -> None:
    shop.sources.xids.append(Xid(UUIDS[0], 79))
    found = shop.wait("DeviceHealthy", "DeviceFaulty", of_lease=True)
    assert UUIDS[0] in found["message"]
    shop.wait("DevicesHealthy", "Quarantined")
    status = shop.provider()["status"]
    assert [(q["uuid"], q["node"], q["sign"]) for q in status["quarantine"]] == [(UUIDS[0], NODE, "XID 79")]
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    assert ready["status"] == "True", "the other device is still sold"


def test_a_device_that_goes_away_under_a_lease_leaves_nothing_free_and_no_huge_number(shop: Shop) -> None:
    shop.set_gpus(0)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "other", "namespace": "default"},
        "spec": {
            "nodeName": NODE,
            "containers": [{"name": "c", "image": "x", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
        },
    }
    shop.kubectl("create", "-f", "-", body=pod)
    try:
        found = shop.wait("NodesFit", "CapacityShort")
        assert NODE in found["message"]
        gpus = shop.provider()["status"]["gpus"]
        assert (gpus["free"], gpus["total"]) == (0, 2)
        assert min(gpus.values()) >= 0
    finally:
        shop.kubectl("delete", "pod", "other", "-n", "default", "--force", "--grace-period=0")
        shop.set_gpus(2)


def test_the_admins_annotation_puts_the_device_back(shop: Shop) -> None:
    words = ("annotate", "gpuprovider", LEASE, "-n", OPERATOR_NAMESPACE, "--overwrite")
    shop.kubectl(*words, f"gpulease.dev/release-device={UUIDS[0]}")
    shop.wait("DevicesHealthy", "NoneQuarantined")
    shop.wait("DeviceHealthy", "Healthy", of_lease=True)
    assert not shop.provider()["status"].get("quarantine")


def test_a_silent_agent_quarantines_nothing(shop: Shop) -> None:
    shop.sources.silent = True
    try:
        taken = shop.stack.chain.height()
        until("some blocks of silence", lambda: shop.stack.chain.height() > taken + 6, timeout_s=PATIENCE_S)
        assert shop.wait("DevicesHealthy", "NoneQuarantined")["status"] == "True"
        gpus = shop.provider()["status"]["gpus"]
        assert (gpus["quarantined"], gpus["total"]) == (0, 2)
    finally:
        shop.sources.silent = False


def test_what_somebody_deletes_of_a_lease_is_built_again(shop: Shop) -> None:
    before = deployment(shop)
    assert before is not None
    shop.kubectl("delete", "deployment,networkpolicy", "--all", "-n", shop.story.facts.namespace)

    def again() -> bool:
        found = deployment(shop)
        policy = shop.stack.get("networkpolicy", "lease", shop.story.facts.namespace)
        return found is not None and policy is not None and found["metadata"]["uid"] != before["metadata"]["uid"]

    until("the objects being there again", again, timeout_s=PATIENCE_S)


def test_a_namespace_without_a_lease_is_reported_and_its_pods_are_stopped(shop: Shop) -> None:
    lease = LeaseId(shop.stack.address("tenant"), 99_999, 1, 1, shop.stack.address("provider"))
    namespace = lease_namespace(lease)
    labels = {"app.kubernetes.io/managed-by": "gpulease", "gpulease.dev/lease": namespace}
    meta = {"name": namespace, "labels": labels, "annotations": {"gpulease.dev/lease-id": str(lease)}}
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "nowhere.invalid/none:1"}]},
    }
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    shop.stack.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": meta},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": namespace, "labels": labels},
            "spec": spec,
        },
    )

    def stopped() -> bool:
        body = shop.stack.get("deployment", "web", namespace) or {}
        return body["spec"]["replicas"] == 0

    until("the orphan's pods stopped", stopped, timeout_s=PATIENCE_S)
    assert namespace in shop.wait("Orphans", "NamespacesWithoutLease")["message"]
    assert "deletionTimestamp" not in (shop.stack.get("namespace", namespace) or {})["metadata"]


def test_cordoning_a_node_gives_the_promised_notice_on_chain(shop: Shop) -> None:
    shop.kubectl("cordon", NODE)
    found = shop.wait("Reclaiming", "WindowRunning", of_lease=True)
    assert found["status"] == "True"
    assert shop.stack.chain.leases(shop.stack.address("tenant"))[-1].state == "reclaiming"
    shop.wait("NodesFit", "Cordoned")
    shop.kubectl("uncordon", NODE)
    shop.wait("Reclaiming", "Kept", of_lease=True)
    shop.wait("NodesFit", "AllFit")
