"""The provider's side in depth, on a lease that runs on a real node: faults, release, rebuilding, orphans, drains."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from gpulease.ids import LeaseId
from gpulease.workload.names import hosted_name, lease_namespace
from tests.demo.story import LEASE, Story
from tests.rig.cluster import Rig
from tests.rig.errors import RigError
from tests.rig.stack import OPERATOR_NAMESPACE, Json, OnRig, Ports, Stack, until

pytestmark = pytest.mark.e2e
PATIENCE_S = 60.0
RESYNC_S = "2"


def promise_a_window(provider: Json) -> None:
    provider["spec"].setdefault("bidding", {})["reclamationWindowSeconds"] = 3600


@pytest.fixture(scope="module")
def story(rig: Rig) -> Iterator[Story]:
    environment = {"GPULEASE_RESYNC_INTERVAL_S": RESYNC_S, "GPULEASE_AGENT_POLL_INTERVAL_S": "1"}
    stack = Stack(OnRig(rig), name="test-depth", ports=Ports.free(), operator_env=environment)
    told = Story(stack, change_provider=promise_a_window)
    try:
        for step in [*told.setup(), *told.lease()][:-3]:
            step.look()
        yield told
    finally:
        rig.kubectl("uncordon", rig.node_name)
        rig.restart_plugin()
        stack.down()
        stack.erase()


def condition(body: Json | None, kind: str) -> Json:
    for one in ((body or {}).get("status") or {}).get("conditions") or ():
        if one["type"] == kind:
            found: Json = one
            return found
    raise RigError(f"no condition {kind} yet")


def hosted(story: Story) -> Json | None:
    return story.stack.get("hostedlease", hosted_name(story.lease_id()), OPERATOR_NAMESPACE)


def provider(story: Story) -> Json | None:
    return story.stack.get("gpuprovider", LEASE, OPERATOR_NAMESPACE)


def wait_for(what: str, story: Story, kind: str, reason: str, *, of_provider: bool = False) -> Json:
    def look() -> Json | None:
        found = condition(provider(story) if of_provider else hosted(story), kind)
        if found["reason"] != reason:
            raise RigError(f"{kind} is {found['status']} {found['reason']}: {found['message']}")
        return found

    seen: Json = until(what, look, timeout_s=PATIENCE_S)
    return seen


def index_of(rig: Rig, story: Story) -> int:
    return rig.gpu_uuids.index(story.facts.uuid)


def gpu_seconds(story: Story) -> float:
    """As the operator's own metric has it: billed or not, the agent's records add up to it."""
    namespace = story.facts.namespace
    usage = json.loads(story.stack.cluster.kubectl("get", "hostedlease", "-n", OPERATOR_NAMESPACE, "-o", "json"))
    (found,) = (one for one in usage["items"] if one["spec"]["namespace"] == namespace)
    return float(found.get("status", {}).get("gpuSeconds", 0))


def test_an_applications_fault_is_told_and_the_lease_goes_on(rig: Rig, story: Story) -> None:
    rig.inject_xid(index_of(rig, story), 31)
    found = wait_for("the tenant being told of its XID", story, "DeviceHealthy", "ApplicationFault")
    assert (found["status"], "XID 31" in found["message"]) == ("True", True)
    assert condition(hosted(story), "Ready")["status"] == "True"
    assert condition(provider(story), "DevicesHealthy")["reason"] == "NoneQuarantined"
    events = story.stack.items("event", story.facts.namespace)
    assert [e for e in events if e["reason"] == "ApplicationFault"], "the gateway streams it to the tenant"


def test_a_hardware_fault_takes_one_device_out_of_sale_and_stops_its_meter(rig: Rig, story: Story) -> None:
    rig.inject_xid(index_of(rig, story), 109)
    found = wait_for("the lease told of its device", story, "DeviceHealthy", "DeviceFaulty")
    assert story.facts.uuid in found["message"]
    assert condition(hosted(story), "Ready")["status"] == "False"
    wait_for("the provider naming the device", story, "DevicesHealthy", "Quarantined", of_provider=True)
    status = (provider(story) or {})["status"]
    assert [(q["uuid"], q["sign"]) for q in status["quarantine"]] == [(story.facts.uuid, "XID 109")]
    assert condition(provider(story), "Ready")["status"] == "True", "the node's other GPU is still sold"
    assert status["gpus"]["free"] >= 1
    before = gpu_seconds(story)
    time.sleep(6)
    # Figures are written with other news; none may show billed time that grew beyond the fault.
    assert gpu_seconds(story) <= before + 2


def test_the_admins_annotation_puts_the_device_back(rig: Rig, story: Story) -> None:
    words = ("annotate", "gpuprovider", LEASE, "-n", OPERATOR_NAMESPACE, "--overwrite")
    rig.kubectl(*words, f"gpulease.dev/release-device={story.facts.uuid}")
    wait_for("nothing in quarantine", story, "DevicesHealthy", "NoneQuarantined", of_provider=True)
    wait_for("the lease told so", story, "DeviceHealthy", "Healthy")
    assert not (provider(story) or {})["status"].get("quarantine")


def test_a_lease_whose_namespace_is_deleted_is_built_again(rig: Rig, story: Story) -> None:
    namespace = story.facts.namespace
    uid = (story.stack.get("namespace", namespace) or {})["metadata"]["uid"]
    rig.kubectl("delete", "namespace", namespace, "--wait=false")

    def again() -> bool:
        body = story.stack.get("namespace", namespace)
        if body is None or body["metadata"]["uid"] == uid:
            raise RigError("the old namespace is still going")
        pods = story.stack.items("pod", namespace)
        if not [p for p in pods if p["status"].get("phase") == "Running"]:
            raise RigError(f"{len(pods)} pods, none Running")
        return True

    until("the workload Running in a new namespace", again, timeout_s=2 * PATIENCE_S)
    assert story.stack.chain.leases(story.stack.address("tenant"))[-1].state == "active"


def test_a_namespace_without_a_lease_is_reported_and_its_pods_are_stopped(rig: Rig, story: Story) -> None:
    lease = LeaseId(story.stack.address("tenant"), 99_999, 1, 1, story.stack.address("provider"))
    namespace = lease_namespace(lease)
    labels = {"app.kubernetes.io/managed-by": "gpulease", "gpulease.dev/lease": namespace}
    pod = {"containers": [{"name": "web", "image": "nowhere.invalid/none:1"}]}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": pod}
    try:
        story.stack.apply(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {
                    "name": namespace,
                    "labels": labels,
                    "annotations": {"gpulease.dev/lease-id": str(lease)},
                },
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "web", "namespace": namespace, "labels": labels},
                "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template},
            },
        )

        def stopped() -> bool:
            body = story.stack.get("deployment", "web", namespace) or {}
            if body["spec"]["replicas"]:
                raise RigError("still asks for a pod")
            return True

        until("the orphan's pods stopped", stopped, timeout_s=PATIENCE_S)
        found = wait_for("the orphan reported", story, "Orphans", "NamespacesWithoutLease", of_provider=True)
        assert namespace in found["message"]
        assert story.stack.get("namespace", namespace) is not None, "nothing is deleted"
    finally:
        rig.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")


def test_cordoning_a_node_gives_the_promised_notice(rig: Rig, story: Story) -> None:
    rig.kubectl("cordon", rig.node_name)
    found = wait_for("the reclamation's window", story, "Reclaiming", "WindowRunning")
    assert found["status"] == "True"
    lease = story.stack.chain.leases(story.stack.address("tenant"))[-1]
    assert lease.state == "reclaiming"
    wait_for("the node out of sale", story, "NodesFit", "Cordoned", of_provider=True)
    assert [p for p in story.stack.items("pod", story.facts.namespace) if p["status"].get("phase") == "Running"]
    rig.kubectl("uncordon", rig.node_name)
    wait_for("the lease kept", story, "Reclaiming", "Kept")
