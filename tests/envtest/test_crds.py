"""The CRDs on a real API server: every sample is taken, every CEL rule refuses something and says what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.envtest.crd_cases import CASES, EDGES, Case
from tests.rig.envtest import EnvTest
from tests.rig.errors import RigError

pytestmark = pytest.mark.envtest

_CRDS = Path(__file__).resolve().parents[2] / "crds"
_FILES = sorted(_CRDS.glob("*.yaml"))
_SAMPLES = sorted((_CRDS / "samples").glob("*.yaml"))
_NOW = "2026-01-02T03:04:05Z"
_READY = {"type": "Ready", "status": "True", "reason": "Serving", "message": "All is well.", "lastTransitionTime": _NOW}


def _crd(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def _schema(crd: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def _walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below, with paths such as spec.services[].image."""
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from _walk(below, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from _walk(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _walk(schema["additionalProperties"], f"{path}{{}}")


def _sample(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((_CRDS / "samples" / f"{kind.lower()}-{name}.yaml").read_text())
    found["metadata"]["namespace"] = "crd-test"
    return found


@pytest.fixture(scope="module")
def api(envtest: EnvTest) -> EnvTest:
    for path in _FILES:
        envtest.kubectl("apply", "-f", str(path))
    envtest.kubectl("wait", "--for=condition=Established", *(f"crd/{_crd(p)['metadata']['name']}" for p in _FILES))
    for namespace in ("crd-test", "team-a", "gpulease-system"):
        # Another test of the session may have made it already.
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        envtest.kubectl("apply", "-f", "-", input_text=json.dumps(body))
    for kind, name in (
        ("GPULease", "minimal"),
        ("GPULease", "inference"),
        ("GPULease", "sdl"),
        ("GPUProvider", "minimal"),
        ("HostedLease", "placed"),
    ):
        envtest.kubectl("apply", "-f", "-", input_text=json.dumps(_sample(kind, name)))
    return envtest


def test_the_api_server_is_ready_within_10_s(envtest: EnvTest) -> None:
    assert envtest.warm_s <= 10


@pytest.mark.parametrize("path", _SAMPLES, ids=lambda path: path.stem)
def test_a_sample_is_taken_and_a_second_apply_changes_nothing(api: EnvTest, path: Path) -> None:
    def version() -> str:
        return api.kubectl("get", "-f", str(path), "-o", "jsonpath={.metadata.resourceVersion}")

    api.kubectl("apply", "-f", str(path))
    first = version()
    api.kubectl("apply", "-f", str(path))
    assert version() == first


@pytest.mark.parametrize("path", _SAMPLES, ids=lambda path: path.stem)
def test_nothing_of_a_sample_is_unknown_to_the_schema(api: EnvTest, path: Path) -> None:
    """Strict validation refuses a field the schema would silently prune."""
    api.kubectl("apply", "--server-side", "--force-conflicts", "--validate=strict", "--dry-run=server", "-f", str(path))


@pytest.mark.parametrize("case", [*CASES, *EDGES], ids=lambda case: case.name)
def test_a_rule_refuses_and_says_what_to_do(api: EnvTest, case: Case) -> None:
    document = _sample(case.kind, case.sample)
    case.change(document["spec"])
    verb = "replace"
    if not case.update:
        document["metadata"]["name"] += "-refused"
        verb = "create"
    with pytest.raises(RigError, match=re.escape(case.says)) as refused:
        api.kubectl(verb, "--dry-run=server", "-f", "-", input_text=json.dumps(document))
    assert "is invalid" in str(refused.value)


def test_every_rule_has_a_case_and_every_message_names_a_way_out() -> None:
    rules: set[tuple[str, str, str]] = set()
    for path in _FILES:
        crd = _crd(path)
        for place, schema in _walk(_schema(crd)):
            for rule in schema.get("x-kubernetes-validations", ()):
                rules.add((crd["spec"]["names"]["kind"], place.removeprefix("spec").removeprefix("."), rule["message"]))
    untried = {r for r in rules if not any((c.kind, c.path) == r[:2] and c.says in r[2] for c in CASES)}
    assert not untried
    assert len(CASES) == len(rules)
    # A sentence that says what is wrong, then a colon, a comma or an example that says what to do.
    assert not [message for *_, message in rules if not re.search(r": |must be|for example|for another", message)]


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_every_field_is_described(path: Path) -> None:
    bare = [
        place for place, schema in _walk(_schema(_crd(path))) if "description" not in schema and place != "metadata"
    ]
    assert not bare


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_short_names_and_columns_show_what_is_stored(api: EnvTest, path: Path) -> None:
    crd = _crd(path)
    names, version = crd["spec"]["names"], crd["spec"]["versions"][0]
    name = {"GPULease": "minimal", "GPUProvider": "minimal", "HostedLease": "lease-1001-1-1"}[names["kind"]]
    status = json.dumps({"status": {"conditions": [_READY]}})
    api.kubectl("patch", names["plural"], name, "-n", "crd-test", "--subresource=status", "--type=merge", "-p", status)
    columns = [column["name"].upper() for column in version["additionalPrinterColumns"]]
    short = [c["name"].upper() for c in version["additionalPrinterColumns"] if not c.get("priority")]
    for alias in names["shortNames"]:
        header, line = api.kubectl("get", alias, name, "-n", "crd-test").splitlines()
        assert header.split() == ["NAME", *short]
        assert "True" in line
        assert "Serving" in line
    wide = api.kubectl("get", names["shortNames"][0], name, "-n", "crd-test", "-o", "wide")
    assert wide.splitlines()[0].split() == ["NAME", *columns]
    assert "All is well." in wide


@pytest.mark.parametrize(
    ("kind", "name"), [("gpulease", "minimal"), ("gpuprovider", "minimal"), ("hostedlease", "lease-1001-1-1")]
)
def test_status_is_written_only_through_its_subresource(api: EnvTest, kind: str, name: str) -> None:
    def read() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(api.kubectl("get", kind, name, "-n", "crd-test", "-o", "json"))
        return found

    def patch(content: dict[str, Any], *more: str) -> None:
        api.kubectl("patch", kind, name, "-n", "crd-test", "--type=merge", "-p", json.dumps(content), *more)

    before = read()
    patch({"status": {"observedGeneration": 77}})
    assert read().get("status", {}).get("observedGeneration") != 77
    patch({"status": {"observedGeneration": 78}, "spec": {"chain": {"chainID": "other"}}}, "--subresource=status")
    after = read()
    assert after["status"]["observedGeneration"] == 78
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_all_kinds_are_listed_by_their_category(api: EnvTest) -> None:
    listed = api.kubectl("get", "gpumarket", "-n", "crd-test", "-o", "name")
    for kind in ("gpulease.", "gpuprovider.", "hostedlease."):
        assert kind in listed


def test_leases_are_selected_by_state(api: EnvTest) -> None:
    """selectableFields lets the operator ask the server for what is not over."""
    change = json.dumps({"status": {"state": "Running"}})
    api.kubectl("patch", "gl", "minimal", "-n", "crd-test", "--subresource=status", "--type=merge", "-p", change)
    found = api.kubectl("get", "gl", "-n", "crd-test", "--field-selector=status.state=Running", "-o", "name")
    assert found.split() == ["gpulease.gpulease.dev/minimal"]
