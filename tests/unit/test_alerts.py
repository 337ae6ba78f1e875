"""Alerts: rules are valid, ask for what exists, fire when they should and only then, and lead to a page that helps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes import promql

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "charts" / "gpulease" / "rules" / "gpulease.yaml"
CASES = ROOT / "tests" / "data" / "alerts" / "gpulease.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
EACH = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
SECTIONS = ("## What it means", "## Where to look", "## What to do")


def test_promtool_takes_the_rules() -> None:
    assert promql.promtool("check", "rules", RULES) == ""


def test_alerts_fire_and_are_silent_as_told() -> None:
    assert promql.promtool("test", "rules", CASES) == ""


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    seen: dict[str, set[bool]] = {}
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for asked in case["alert_rule_test"]:
            seen.setdefault(asked["alertname"], set()).add(bool(asked["exp_alerts"]))
            assert any(series["values"] for series in case["input_series"]), case["name"]
    assert seen == {alert["alert"]: {True, False} for alert in ALERTS}


@EACH
def test_an_alert_asks_for_metrics_and_labels_that_exist(alert: dict[str, Any]) -> None:
    assert promql.unknown(alert["expr"], promql.known_metrics()) == []


@EACH
def test_an_alert_has_severity_and_sentences(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    for name in ("summary", "description"):
        assert alert["annotations"][name].endswith("."), name


@EACH
def test_the_runbook_of_an_alert_is_a_page_that_helps(alert: dict[str, Any]) -> None:
    link = alert["annotations"]["runbook_url"]
    assert link == f"docs/runbooks/{alert['alert']}.md"
    page = (ROOT / link).read_text()
    assert page.startswith(f"# {alert['alert']}\n")
    parts = [page.index(section) for section in SECTIONS]
    assert parts == sorted(parts)
    assert all(len(part.split()) > 10 for part in re.split("|".join(SECTIONS), page)[1:])


def test_runbooks_are_those_of_the_alerts_and_their_links_resolve() -> None:
    pages = {path.stem: path.read_text() for path in RUNBOOKS.glob("*.md")}
    assert set(pages) == {"README"} | {alert["alert"] for alert in ALERTS}
    links = {link for text in pages.values() for link in re.findall(r"\]\(([^)#]+)\)", text)}
    assert len(links) >= len(ALERTS)
    assert [link for link in sorted(links) if not (RUNBOOKS / link).exists()] == []


def test_runbooks_and_rules_name_only_metrics_that_exist() -> None:
    texts = [path.read_text() for path in RUNBOOKS.glob("*.md")]
    named = {name for text in texts for name in re.findall(r"`(gpulease_[a-z_]+)`", text)}
    assert named <= set(promql.known_metrics())
