"""What the chart copies is what it was copied from, and its schema takes its own values and no wrong ones."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from gpulease import __version__
from tools import chart

pytestmark = pytest.mark.unit
VALUES: dict[str, Any] = yaml.safe_load((chart.CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((chart.CHART / "values.schema.json").read_text())


def test_the_readme_lists_the_values_that_there_are() -> None:
    """``make chart-sync`` writes the table."""
    assert (chart.CHART / "README.md").read_text() == chart.readme()
    assert len(chart.table().splitlines()) > 60


def test_the_charts_crds_are_the_crds() -> None:
    assert {path.name: path.read_text() for path in (chart.CHART / "crds").iterdir()} == chart.crds()


def test_the_chart_is_of_the_packages_version() -> None:
    meta = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert (meta["version"], meta["appVersion"]) == (__version__, __version__)
    kinds = {crd["kind"] for crd in yaml.safe_load(meta["annotations"]["artifacthub.io/crds"])}
    assert kinds == {yaml.safe_load(text)["spec"]["names"]["kind"] for text in chart.crds().values()}


def test_the_schema_takes_the_defaults() -> None:
    jsonschema.validate(VALUES, SCHEMA)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("roles", []),
        ("roles", ["seller"]),
        ("image.pullPolicy", "Sometimes"),
        ("operator.replicas", 2),
        ("operator.workers", 0),
        ("operator.workers", "8"),
        ("state.size", "5"),
        ("tenant.namespaces", ["Team A"]),
        ("agent.kubeletDir", "var/lib/kubelet"),
        ("agent.dataHostPath", "/"),
        ("agent.dcgmUrl", "dcgm:9400"),
        ("agent.token", "secret"),
        ("gateway.service.type", "ExternalName"),
        ("gateway.replicas", 0),
        ("devnet.blockTimeMs", 1),
        ("priorityClass.value", 2_000_000_000),
        ("walletKey", "0123"),
    ],
)
def test_the_schema_refuses(path: str, wrong: object) -> None:
    values = copy.deepcopy(VALUES)
    *above, key = path.split(".")
    place = values
    for part in above:
        place = place[part]
    place[key] = wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, SCHEMA)


def test_no_value_is_for_a_key() -> None:
    """Keys come in Secrets of the admin's: a value ends up in helm's release and in shell histories."""
    named = [
        key for key, _, _ in chart.rows(VALUES, SCHEMA) if re.search(r"(?i)token|password|mnemonic|private|key$", key)
    ]
    assert named == []


def test_every_setting_that_the_chart_gives_is_one_of_the_operator() -> None:
    from gpulease.settings import OperatorSettings

    given = set(re.findall(r"GPULEASE_([A-Z_]+),", (chart.CHART / "templates" / "operator.yaml").read_text()))
    assert given
    assert {name.lower() for name in given} <= set(OperatorSettings.model_fields)
