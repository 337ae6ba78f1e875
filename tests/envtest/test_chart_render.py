"""What real helm makes of the chart: valid objects for every kind of use, refusals in sentences, and few rights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.rig.config import KUBELET_DIR
from tests.rig.envtest import EnvTest
from tests.rig.errors import RigError
from tests.rig.helm import CHART, Helm

pytestmark = pytest.mark.envtest
Json = dict[str, Any]

FULL: Json = {
    "gateway": {"providerObject": "demo", "replicas": 2, "blockedHosts": [".example.com"]},
    "devnet": {"enabled": True},
    "monitoring": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "runbookBaseUrl": "https://example.com/gpulease",
        "dashboards": True,
    },
    "tenant": {"namespaces": ["team-a", "team-b"]},
    "agent": {"dcgmUrl": "http://dcgm.gpu.svc:9400/metrics"},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
}
VARIANTS: dict[str, Json] = {
    "defaults": {},
    "full": FULL,
    "tenant": {"roles": ["tenant"], "tenant": {"allNamespaces": True}},
    "provider": {"roles": ["provider"], "gateway": {"providerObject": "demo", "service": {"type": "LoadBalancer"}}},
    "bare": {
        "state": {"persistent": False},
        "agent": {"enabled": False},
        "gateway": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "priorityClass": {"create": False},
        "admissionPolicy": {"enabled": False},
        "operator": {"leaderElection": False},
    },
    "mounted": {
        "agent": {"runtimeClassName": "", "nvmlHostPath": "/usr/lib/nvidia", "existingSecret": "token"},
        "state": {"existingClaim": "books"},
        "priorityClass": {"existing": "system-cluster-critical"},
        "gateway": {"providerObject": "demo", "service": {"type": "NodePort", "nodePort": 30443}},
    },
}


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def rendered(helm: Helm) -> dict[str, list[Json]]:
    return {name: helm.render(values) for name, values in VARIANTS.items()}


def pods(bodies: list[Json]) -> Iterator[tuple[str, Json]]:
    """Name and spec of every pod that the objects make."""
    for body in bodies:
        if body["kind"] in ("Deployment", "DaemonSet"):
            yield body["metadata"]["name"], body["spec"]["template"]["spec"]
        elif body["kind"] == "Pod":
            yield body["metadata"]["name"], body["spec"]


def rules(bodies: list[Json], kind: str) -> Iterator[tuple[str, Json]]:
    for body in bodies:
        if body["kind"] == kind:
            yield from ((body["metadata"]["name"], rule) for rule in body["rules"])


def test_lint_finds_nothing(helm: Helm) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm("lint", str(CHART), "--strict", values=FULL)


def test_every_variant_is_valid(rendered: dict[str, list[Json]]) -> None:
    count = 0
    for name, bodies in rendered.items():
        for body in bodies:
            if body["apiVersion"].startswith("monitoring.coreos.com/"):  # a CRD's: no schema of Kubernetes'
                continue
            try:
                kubernetes_validate.validate(body, "1.34", strict=True)
            except kubernetes_validate.ValidationError as error:
                pytest.fail(f"{name}: {body['kind']} {body['metadata']['name']}: {error}")
            count += 1
    print(f"{count} objects of {len(rendered)} variants valid")
    assert count > 100


def test_a_real_api_server_takes_them(envtest: EnvTest, rendered: dict[str, list[Json]]) -> None:
    """Also what no schema says: names, selectors, the admission policy's expressions."""
    for namespace in ("gpulease-system", "team-a", "team-b"):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        envtest.kubectl("apply", "-f", "-", input_text=json.dumps(body))
    for name in ("full", "tenant", "mounted"):
        bodies = [body for body in rendered[name] if not body["apiVersion"].startswith("monitoring.coreos.com/")]
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": bodies})
        envtest.kubectl("apply", "--dry-run=server", "-f", "-", input_text=text, timeout_s=60)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"roles": ["seller"]}, "value must be one of 'provider', 'tenant'"),
        ({"operator": {"replicas": 2}}, "additional properties 'replicas' not allowed"),
        ({"tenant": {"namespaces": ["a"], "allNamespaces": True}}, "name the namespaces whose wallets"),
        ({"roles": ["provider"], "tenant": {"namespaces": ["a"]}}, "add tenant to roles"),
        ({"roles": ["tenant"], "gateway": {"providerObject": "x"}}, "add provider to roles"),
        ({"state": {"persistent": False, "existingClaim": "x"}}, "needs state.persistent=true"),
        ({"agent": {"nvmlHostPath": "/x"}}, 'Set agent.runtimeClassName=""'),
        ({"gateway": {"service": {"grpcPort": 8443}}}, "choose two"),
    ],
)
def test_wrong_values_are_refused_with_what_to_do(helm: Helm, values: Json, words: str) -> None:
    with pytest.raises(RigError) as refusal:
        helm.render(values)
    assert words in str(refusal.value)


def test_no_right_is_a_wildcard_and_secrets_are_read_where_they_are_ours(rendered: dict[str, list[Json]]) -> None:
    for name, bodies in rendered.items():
        for kind in ("ClusterRole", "Role"):
            for role, rule in rules(bodies, kind):
                assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], (name, role)
        bound = {b["roleRef"]["name"] for b in bodies if b["kind"] == "ClusterRoleBinding"}
        everywhere = [
            rule for role, rule in rules(bodies, "ClusterRole") if role in bound and "secrets" in rule["resources"]
        ]
        assert [rule["verbs"] for rule in everywhere] == ([["get"]] if name == "tenant" else []), name


def test_the_roles_of_leases_are_bound_by_the_operator_alone(rendered: dict[str, list[Json]]) -> None:
    bodies = rendered["full"]
    roles = {"gpulease-operator-in-lease", "gpulease-gateway-in-lease"}
    assert roles <= {b["metadata"]["name"] for b in bodies if b["kind"] == "ClusterRole"}
    assert not roles & {b["roleRef"]["name"] for b in bodies if b["kind"].endswith("RoleBinding")}
    [bind] = [rule for _, rule in rules(bodies, "ClusterRole") if "bind" in rule["verbs"]]
    assert set(bind["resourceNames"]) == roles
    env = {e["name"]: e.get("value") for e in dict(pods(bodies))["gpulease-operator"]["containers"][0]["env"]}
    assert set(json.loads(env["GPULEASE_LEASE_BINDINGS"])) == roles


def test_every_pod_but_the_agents_meets_restricted(rendered: dict[str, list[Json]]) -> None:
    for bodies in rendered.values():
        for name, spec in pods(bodies):
            [container] = spec["containers"]
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
            assert "memory" in container["resources"]["limits"], name
            assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
            if name != "gpulease-agent":
                assert spec["securityContext"]["runAsNonRoot"] is True, name
                assert not any("hostPath" in volume for volume in spec.get("volumes", ())), name


def test_rules_and_dashboards_arrive_as_they_are(rendered: dict[str, list[Json]]) -> None:
    bodies = {(b["kind"], b["metadata"]["name"]): b for b in rendered["full"]}
    source = yaml.safe_load((CHART / "rules" / "gpulease.yaml").read_text())
    links = json.dumps(source).replace("docs/runbooks/", "https://example.com/gpulease/docs/runbooks/")
    assert bodies["PrometheusRule", "gpulease"]["spec"] == json.loads(links)
    files = sorted((CHART / "dashboards").glob("*.json"))
    assert len(files) == 4
    for path in files:
        made = bodies["ConfigMap", f"{path.stem}-dashboard"]
        assert json.loads(made["data"][path.name]) == json.loads(path.read_text())
        assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert not any(kind in ("PrometheusRule", "PodMonitor", "ConfigMap") for kind, _ in _names(rendered["defaults"]))


def _names(bodies: list[Json]) -> list[tuple[str, str]]:
    return [(body["kind"], body["metadata"]["name"]) for body in bodies]


def test_the_agent_reaches_its_two_folders_and_has_no_token(rendered: dict[str, list[Json]]) -> None:
    spec = dict(pods(rendered["defaults"]))["gpulease-agent"]
    paths = {v["hostPath"]["path"]: v["name"] for v in spec["volumes"] if "hostPath" in v}
    assert set(paths) == {f"{KUBELET_DIR}/pod-resources", "/var/lib/gpulease-agent"}
    mounts = {m["name"]: m for m in spec["containers"][0]["volumeMounts"]}
    assert mounts[paths[f"{KUBELET_DIR}/pod-resources"]]["readOnly"] is True
    assert spec["automountServiceAccountToken"] is False
    daemons = next(body for body in rendered["defaults"] if body["kind"] == "DaemonSet")
    assert daemons["spec"]["template"]["metadata"]["labels"]["gpulease.dev/agent"] == "true"
    assert {"name": "http", "containerPort": 9412} in spec["containers"][0]["ports"]
