"""The chart on a real cluster, operator, gateway, agent and chain as pods: from helm install until nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig.cluster import Rig
from tests.rig.errors import RigError
from tests.rig.helm import CHART, Helm
from tests.rig.image import IMAGE, TAG, product_image
from tests.rig.nvml.stubs import library_dir
from tests.rig.podresources import holders

pytestmark = pytest.mark.e2e

SYSTEM, TENANT = "gpulease-system", "team-a"
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
LEASE_LABEL = "gpulease.dev/lease"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:gpulease"
KEY = 'import json; print(json.load(open("/var/lib/devnet/keys.json"))["{}"]["private_key_hex"], end="")'
KINDS = (
    "all,configmaps,secrets,serviceaccounts,persistentvolumeclaims,roles,rolebindings,networkpolicies,"
    "poddisruptionbudgets,clusterroles,clusterrolebindings,priorityclasses,validatingadmissionpolicies,"
    "validatingadmissionpolicybindings"
)
_CLASS = "chart-test"
Json = dict[str, Any]


def until(what: str, check: Callable[[], bool], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


class Installed:
    """The release on the rig, and what the test asks of the cluster."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.helm = Helm(rig.state_dir / "helm", rig.kubeconfig)
        self.books = rig.state_dir / "chart-books"
        self.agent_data = rig.state_dir / "chart-agent"

    def values(self) -> Json:
        return {
            "image": {"repository": IMAGE, "tag": TAG, "pullPolicy": "Never"},
            "state": {"storageClassName": _CLASS, "size": "1Gi"},
            "tenant": {"namespaces": [TENANT]},
            "devnet": {"enabled": True},
            "agent": {
                "runtimeClassName": "",  # the double is no driver that NVIDIA's runtime could bring in
                "nvmlHostPath": str(library_dir()),
                "extraEnv": [{"name": "GPULEASE_NVML_DOUBLE", "value": self.rig.nvml_env["GPULEASE_NVML_DOUBLE"]}],
                "extraHostPaths": [str(self.rig.gpus.folder)],
                "dataHostPath": str(self.agent_data),
            },
        }

    def make_volume(self) -> None:
        """What a provisioner would make for the claim: a folder of the node that the operator's user may write."""
        self.books.mkdir(parents=True)
        os.chown(self.books, 65532, 65532)
        spec = {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": _CLASS,
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(self.books), "type": "Directory"},
        }
        meta = {"name": _CLASS}
        self.kubectl(
            "apply", "-f", "-", body={"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": spec}
        )

    def kubectl(self, *args: str, body: object = None, timeout_s: float = 60.0) -> str:
        return self.rig.kubectl(*args, input_text=None if body is None else json.dumps(body), timeout_s=timeout_s)

    def get(self, *args: str) -> Json:
        found: Json = json.loads(self.kubectl("get", *args, "-o", "json"))
        return found

    def names(self, *args: str) -> list[str]:
        return self.kubectl("get", *args, "--ignore-not-found", "-o", "name").split()

    def address(self, service: str) -> str:
        return str(self.get("service", service, "-n", SYSTEM)["spec"]["clusterIP"])

    def wallet(self, account: str, secret: str, namespace: str) -> None:
        """As the notes of the chart say it."""
        words = ("exec", "-n", SYSTEM, "deploy/gpulease-devnet", "--", "/opt/gpulease/bin/python", "-c")
        key = self.kubectl(*words, KEY.format(account))
        body = {"metadata": {"name": secret, "namespace": namespace}, "stringData": {"key": key}}
        self.kubectl("apply", "-f", "-", body={"apiVersion": "v1", "kind": "Secret", **body})

    def example(self, name: str) -> None:
        """An example of docs/, with the addresses of this cluster, which has no DNS."""
        body: Json = yaml.safe_load((EXAMPLES / name).read_text())
        chain = self.address("gpulease-devnet")
        body["spec"]["chain"]["endpoints"] = [{"rpc": f"http://{chain}:26657", "grpc": f"{chain}:9090"}]
        if body["kind"] == "GPUProvider":
            body["spec"]["hostURI"] = f"https://{self.address('gpulease-gateway')}:8443"
        self.kubectl("apply", "-f", "-", body=body)

    def lease_pod(self) -> Json:
        found = self.get("pods", "-A", "-l", LEASE_LABEL)["items"]
        assert len(found) == 1, [pod["metadata"]["name"] for pod in found]
        return dict(found[0])

    def refused(self, *, since: str) -> list[Json]:
        """What the chart's accounts asked for after ``since`` (RFC 3339) and may not have."""
        events = [json.loads(line) for line in self.rig.audit_log.read_text().splitlines() if '"code":403' in line]
        return [
            event
            for event in events
            if event["user"]["username"].startswith(ACCOUNT) and event["requestReceivedTimestamp"] > since
        ]

    def unclaim(self) -> None:
        """Lift the finalizers of what an aborted test left, so that its namespaces can go."""
        for kind in ("gpuleases", "hostedleases", "gpuproviders"):
            if not self.names("crd", f"{kind}.gpulease.dev"):
                continue
            for body in self.get(kind, "-A")["items"]:
                words = (kind, body["metadata"]["name"], "-n", body["metadata"]["namespace"])
                self.kubectl("patch", *words, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')

    def may(self, part: str, *question: str, namespace: str = "default") -> bool:
        try:
            words = ("auth", "can-i", *question, "-n", namespace, f"--as={ACCOUNT}-{part}")
            return self.kubectl(*words).strip() == "yes"
        except RigError:  # kubectl ends with 1 for "no"
            return False


@pytest.fixture(scope="module")
def image() -> Path:
    return product_image()


@pytest.fixture
def installed(image: Path, rig: Rig) -> Iterator[Installed]:
    rig.load_image(image)
    made = Installed(rig)
    for namespace in (SYSTEM, TENANT):
        rig.kubectl("create", "namespace", namespace)
    made.make_volume()
    try:
        yield made
    finally:
        if "gpulease" in made.helm("list", "--short", "--all"):
            made.helm("uninstall", "gpulease", timeout_s=120)
        made.unclaim()
        leases = [name.removeprefix("namespace/") for name in made.names("namespace", "-l", LEASE_LABEL)]
        made.kubectl("delete", "namespace", SYSTEM, TENANT, *leases, "--timeout=90s", timeout_s=100)
        made.kubectl("delete", "persistentvolume", _CLASS)
        shutil.rmtree(made.books)


def test_installed_used_upgraded_and_gone(installed: Installed) -> None:
    helm, kubectl = installed.helm, installed.kubectl
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    began = time.monotonic()
    notes = helm(
        "install", "gpulease", str(CHART), "--wait", "--timeout=150s", values=installed.values(), timeout_s=160
    )
    print(f"helm install --wait: {time.monotonic() - began:.1f} s")
    assert "kubectl -n gpulease-system create secret generic provider-wallet" in notes
    assert "Succeeded" in helm("test", "gpulease", "--timeout=60s", timeout_s=70)

    installed.wallet("provider", "provider-wallet", SYSTEM)
    installed.wallet("tenant", "wallet", TENANT)
    installed.example("provider.yaml")
    token = installed.get("secret", "gpulease-agent-token", "-n", SYSTEM)["data"]
    words = ("upgrade", "gpulease", str(CHART), "--reset-then-reuse-values", "--wait", "--timeout=120s")
    helm(*words, "--set", "gateway.providerObject=demo", timeout_s=130)
    assert installed.get("secret", "gpulease-agent-token", "-n", SYSTEM)["data"] == token
    kubectl("wait", "gpuprovider/demo", "-n", SYSTEM, "--for=condition=Ready", "--timeout=60s", timeout_s=70)

    began = time.monotonic()
    installed.example("lease.yaml")
    kubectl("wait", "gpulease/demo", "-n", TENANT, "--for=condition=Ready", "--timeout=120s", timeout_s=130)
    print(f"lease Ready: {time.monotonic() - began:.1f} s")
    pod = installed.lease_pod()
    space = pod["metadata"]["namespace"]
    assert any(holder.namespace == space for holder in holders().values())

    # An upgrade and a rollback replace the operator and leave the lease's pod alone.
    helm(*words, "--set", "operator.workers=4", timeout_s=130)
    helm("rollback", "gpulease", "--wait", "--timeout=120s", timeout_s=130)
    after = installed.lease_pod()
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0

    rights(installed, space)

    kubectl("delete", "gpulease", "demo", "-n", TENANT, "--timeout=90s", timeout_s=100)
    until("the lease's namespace going", lambda: not installed.names("namespace", space), timeout_s=90)
    refused = [e["objectRef"] for e in installed.refused(since=since)]
    print(f"requests of the chart's accounts refused in the lease's namespace, as it came and went: {len(refused)}")
    # A binding takes a moment to reach the authoriser, and goes with its namespace; elsewhere nothing may be missing.
    assert {ref.get("namespace") for ref in refused} <= {space}, refused
    helm("uninstall", "gpulease", "--wait", "--timeout=60s", timeout_s=70)
    # What the notes say is kept, and nothing else.
    kept = ["persistentvolumeclaim/gpulease-state"]

    def only_kept() -> bool:  # pods end after their Deployments
        return installed.names(KINDS, "-A", "-l", "app.kubernetes.io/instance=gpulease") == kept

    until("the release's objects going", only_kept, timeout_s=60)
    assert "the claim gpulease-state with the books" in " ".join(notes.split())
    assert installed.names("crd/gpuleases.gpulease.dev") != []


def rights(installed: Installed, space: str) -> None:
    """What the accounts may do, asked of the API server itself."""
    assert installed.may("operator", "create", "deployments", namespace=space)
    assert not installed.may("operator", "create", "deployments", namespace=TENANT)
    assert installed.may("operator", "get", "secrets", namespace=TENANT)
    assert not installed.may("operator", "list", "secrets", namespace=TENANT)
    assert not installed.may("operator", "get", "secrets", namespace="kube-system")
    assert installed.may("gateway", "create", "pods", "--subresource=exec", namespace=space)
    assert not installed.may("gateway", "create", "pods", "--subresource=exec", namespace=SYSTEM)
    for question in (("get", "pods"), ("list", "secrets"), ("list", "nodes")):
        assert not installed.may("agent", *question, namespace=SYSTEM)
    user = f"--as={ACCOUNT}-operator"
    bind = ("create", "rolebinding", "x", "--serviceaccount=default:default", user)
    with pytest.raises(RigError, match="namespaces of leases only"):
        installed.kubectl(*bind, "--clusterrole=gpulease-operator-in-lease", "-n", "kube-system")
    with pytest.raises(RigError, match="namespaces of leases only"):
        installed.kubectl("delete", "namespace", TENANT, user)
    patch = '{"metadata":{"labels":{"gpulease.dev/lease":"x"}}}'
    with pytest.raises(RigError, match="namespaces of leases only"):
        installed.kubectl("patch", "namespace", TENANT, "--type=merge", "-p", patch, user)
    with pytest.raises(RigError, match=r"forbidden|escalat"):
        installed.kubectl(*bind, "--clusterrole=cluster-admin", "-n", space)
