"""What the docs list is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpulease.market.bid import NoBidReason

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "operator" / "gpulease"
LISTED = re.compile(r"`(gpulease_[a-z_]+)`")


def test_every_metric_of_operator_and_agent_is_documented_and_none_else() -> None:
    source = "".join((PACKAGE / room / "metrics.py").read_text() for room in ("runtime", "agent"))
    made = set()
    for family in re.finditer(r"(Counter|Gauge|Histogram)MetricFamily\(\s*\"(gpulease_[a-z_]+)\"", source):
        made.add(family[2] + ("_total" if family[1] == "Counter" else ""))
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert made == set(LISTED.findall(page))
    assert len(made) > 50


def test_every_reason_not_to_bid_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert [reason.value for reason in NoBidReason if f"`{reason.value}`" not in page] == []


def test_every_reason_of_a_condition_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "conditions.md").read_text()
    sources = [PACKAGE / "tenancy" / "plan.py", PACKAGE / "lease" / "plan.py", PACKAGE / "runtime" / "provider.py"]
    said: set[str] = set()
    for path in sources:
        said |= set(re.findall(r"Condition\.(?:true|false|unknown)\(\s*\"\w+\",\s*\"(\w+)\"", path.read_text()))
    assert len(said) > 30
    assert sorted(reason for reason in said if reason not in page) == []
