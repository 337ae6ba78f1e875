"""What a query, dashboard or rule of ours may ask for: metrics and labels that somebody really exposes."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
_ROW = re.compile(r"^\| (`gpulease_[^|]*?) *\|([^|]*)\|", re.MULTILINE)
_TARGET_LABELS = frozenset({"instance", "job"})
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
GRAFANA_OWN = frozenset({"__rate_interval", "__interval", "__range", "datasource"})


def promtool(*arguments: str | Path, given: str = "") -> str:
    """What promtool complains of; empty when it is content."""
    found = shutil.which("promtool")
    if found is None:
        pytest.fail("promtool is missing; it comes with Prometheus (Debian: apt-get install prometheus)")
    words = [found, *map(str, arguments)]
    done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def documented() -> dict[str, frozenset[str]]:
    """Our metrics with their labels, from the reference page, which other tests hold to the code."""
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    found: dict[str, frozenset[str]] = {}
    for names, labels in _ROW.findall(page):
        of = frozenset(filter(None, (label.strip() for label in labels.split(","))))
        found |= dict.fromkeys(re.findall(r"`(gpulease_[a-z_]+)`", names), of)
    return found


def known_metrics() -> dict[str, frozenset[str]]:
    """Ours, those of DCGM's exporter and of the kubelet that their documentation names, and a process's own."""
    others = yaml.safe_load((ROOT / "tests" / "data" / "dashboards" / "metrics_of_others.yaml").read_text())
    known = documented() | {name: frozenset(group["labels"]) for group in others.values() for name in group["metrics"]}
    for name in [name for name in known if name.endswith("_run_seconds")]:
        known |= {f"{name}_bucket": known[name] | {"le"}, f"{name}_sum": known[name], f"{name}_count": known[name]}
    return {name: labels | _TARGET_LABELS for name, labels in known.items()}


def variables(text: str) -> set[str]:
    return set(_VARIABLE.findall(text))


def parse(expr: str) -> Any:
    """With Grafana's variables filled in; ``ValueError`` for what is no PromQL."""
    return promql_parser.parse(_VARIABLE.sub(lambda m: "5m" if m[1].startswith("__") else "x", expr))


def parts(node: Any) -> Iterator[Any]:
    """The expression and everything in it."""
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        inner = getattr(node, name, None)
        if inner is not None:
            yield from parts(inner)
    for inner in getattr(node, "args", None) or ():
        yield from parts(inner)


def unknown(expr: str, known: dict[str, frozenset[str]]) -> list[str]:
    """What of an expression nobody exposes: metrics, and labels that are matched or grouped by."""
    found: list[str] = []
    labels: set[str] = set()
    asked: set[str] = set()
    for part in parts(parse(expr)):
        if isinstance(part, promql_parser.VectorSelector):
            if part.name not in known:
                found.append(f"metric {part.name}")
                continue
            labels |= known[part.name]
            missing = {m.name for m in part.matchers.matchers} - known[part.name]
            found += [f"label {name} of {part.name}" for name in sorted(missing)]
        modifier = getattr(part, "modifier", None)
        for holder in (modifier, getattr(modifier, "matching", None)):
            asked |= set(getattr(holder, "labels", None) or ())
        asked |= set(getattr(modifier, "group_labels", None) or ())
    return found + [f"label {name}" for name in sorted(asked - labels)]
