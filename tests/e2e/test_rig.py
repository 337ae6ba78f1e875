"""The rig itself: if one of these fails, no other e2e test means anything."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from tests.rig.cluster import Rig
from tests.rig.podresources import Holder, holders
from tests.rig.prometheus import query

pytestmark = pytest.mark.e2e

_PODS = """
apiVersion: v1
kind: Pod
metadata: {name: work, namespace: rig-test, labels: {app: work}}
spec:
  runtimeClassName: nvidia
  containers:
    - name: main
      image: localhost/gpulease-demo:1
      resources: {limits: {nvidia.com/gpu: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: unpullable, namespace: rig-test}
spec: {containers: [{name: main, image: registry.invalid/none:1}]}
---
apiVersion: v1
kind: Service
metadata: {name: work, namespace: rig-test}
spec: {selector: {app: work}, ports: [{port: 80, targetPort: 8080}]}
"""


def until(what: str, check: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def pods(rig: Rig) -> Iterator[Rig]:
    rig.kubectl("create", "namespace", "rig-test")
    until(
        "the namespace's service account", lambda: "default" in rig.kubectl("get", "sa", "-n", "rig-test", "-o", "name")
    )
    rig.kubectl("apply", "-f", "-", input_text=_PODS)
    rig.kubectl("wait", "pod/work", "-n", "rig-test", "--for=condition=Ready", "--timeout=30s", timeout_s=40)
    yield rig
    rig.kubectl("delete", "namespace", "rig-test", timeout_s=60)


def test_it_comes_up_within_30_s(rig: Rig) -> None:
    assert rig.warm_s <= 30


def test_the_node_has_nvidias_labels(rig: Rig) -> None:
    labels = json.loads(rig.kubectl("get", "node", rig.node_name, "-o", "json"))["metadata"]["labels"]
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-A100-SXM4-80GB"
    assert labels["nvidia.com/gpu.memory"] == "81920"
    assert labels["nvidia.com/gpu.count"] == "2"


def test_a_pod_gets_the_gpu_that_the_kubelet_says(pods: Rig) -> None:
    held = {uuid: holder for uuid, holder in holders().items() if holder.namespace == "rig-test"}
    assert list(held.values()) == [Holder("rig-test", "work", "main")]
    uuid = next(iter(held))
    assert uuid in pods.gpu_uuids
    assert f"NVIDIA_VISIBLE_DEVICES={uuid}" in pods.kubectl("logs", "-n", "rig-test", "work")
    assert f"NVIDIA_VISIBLE_DEVICES={uuid}" in pods.kubectl("exec", "-n", "rig-test", "work", "--", "/bin/demo", "env")


def test_a_service_address_answers(pods: Rig) -> None:
    address = pods.kubectl("get", "service", "-n", "rig-test", "work", "-o", "jsonpath={.spec.clusterIP}")

    def answers() -> bool:
        try:
            return "NVIDIA_VISIBLE_DEVICES=GPU-" in get(f"http://{address}/")
        except OSError:
            return False

    until("the service's address answering", answers)
    assert "200" in pods.kubectl("exec", "-n", "rig-test", "work", "--", "/bin/demo", "fetch", f"http://{address}/")


def test_an_unpullable_image_says_so(pods: Rig) -> None:
    path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}"

    def reason() -> str:
        return pods.kubectl("get", "pod", "-n", "rig-test", "unpullable", "-o", path)

    until("the kubelet's reason", lambda: reason() in ("ErrImagePull", "ImagePullBackOff"))


def test_the_exporter_names_the_pod_and_prometheus_has_it(pods: Rig) -> None:
    uuid = next(uuid for uuid, holder in holders().items() if holder.namespace == "rig-test")
    labels = 'container="main",namespace="rig-test",pod="work"}'
    lines = [line for line in get(pods.dcgm_url).splitlines() if uuid in line and labels in line]
    assert any(line.startswith('DCGM_FI_DEV_GPU_UTIL{gpu="') for line in lines)
    base = pods.start_prometheus({"dcgm": pods.dcgm_url})

    def energy() -> float:
        found = query(base, f'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{UUID="{uuid}",pod="work"}}')
        return float(found[0]["value"][1]) if found else 0.0

    until("a series of the device", lambda: energy() > 0)
    first = energy()
    until("energy rising", lambda: energy() > first)
    # Busy: the model's power is 300 W, and utilisation moves.
    assert float(query(base, f'DCGM_FI_DEV_POWER_USAGE{{UUID="{uuid}"}}')[0]["value"][1]) == 300
    until("utilisation", lambda: float(query(base, f'DCGM_FI_DEV_GPU_UTIL{{UUID="{uuid}"}}')[0]["value"][1]) >= 70)


def test_the_audit_log_names_who_wrote(pods: Rig) -> None:
    events = [json.loads(line) for line in pods.audit_log.read_text().splitlines()]
    made = [e for e in events if e["verb"] == "patch" or e["verb"] == "create"]
    assert any(e["user"]["username"] == "rig-admin" and e["objectRef"].get("name") == "work" for e in made)


def test_an_ended_process_says_so_and_a_killed_one_is_gone(rig: Rig) -> None:
    process = rig.start_process("sleeper", ["sleep", "600"], {})
    assert process.running
    process.kill9()
    assert not process.running
    again = rig.start_process("sleeper", ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"], {})
    time.sleep(0.2)
    assert again.terminate() == 7


def test_an_xid_takes_the_device_away(rig: Rig) -> None:
    """Last: NVIDIA's plugin keeps a device unhealthy until it is restarted, so it is restarted."""
    rig.inject_xid(1, 79)
    until("allocatable falling", lambda: rig.gpus.allocatable(rig.node_name) == 1)
    until("the exporter's XID", lambda: any("XID" in x and x.endswith(" 79") for x in get(rig.dcgm_url).splitlines()))
    rig.restart_plugin()
    until("allocatable rising", lambda: rig.gpus.allocatable(rig.node_name) == 2)
