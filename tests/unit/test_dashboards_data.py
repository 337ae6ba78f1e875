"""Every panel's query, evaluated by Prometheus itself over series as we and others expose them, returns data.

promtool runs the real engine over given series: a join that finds no partner, or too many, shows here and not first in
somebody's Grafana. There are two of everything, so that a query that works for one provider, lease or
process only fails.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.fakes import promql
from tools.dashboards.__main__ import BOARDS
from tools.dashboards.board import Board, Panel, Query, Section

pytestmark = pytest.mark.unit
SEVERAL = {
    "state": ("leased", "reserved", "free", "quarantined"),
    "denom": ("uact", "uakt"),
    "outcome": ("included", "failed", "won", "outbid"),
    "le": ("0.1", "1.0", "+Inf"),
    "resource_name": ("nvidia.com/gpu",),
}
# Labels that name the same thing: account and provider are one address, a device is DCGM's UUID.
SAME = {"account": "provider", "device": "GPU", "UUID": "GPU", "namespace": "lease_namespace"}
CHOSEN = {"lease": "lease-0", "lease_namespace": "lease_namespace-0", "__rate_interval": "5m"}


def series() -> list[str]:
    found = []
    for name, labels in sorted(promql.known_metrics().items()):
        several = sorted(labels & SEVERAL.keys())
        rest = sorted(labels - SEVERAL.keys() - {"job"})
        for number in (0, 1):
            combinations: list[list[str]] = [[f'{label}="{SAME.get(label, label)}-{number}"' for label in rest]]
            for label in several:
                combinations = [[*c, f'{label}="{value}"'] for c in combinations for value in SEVERAL[label]]
            found += [f"{name}{{{','.join(combination)}}}" for combination in combinations]
    return found


def filled(expr: str) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda match: CHOSEN.get(match[1], ".*"), expr)


def answers(board: Board, folder: Path) -> str:
    """What promtool says when each query is expected to give at least one series; empty when all do."""
    exprs = [filled(query.expr) for section in board.sections for panel in section.panels for query in panel.queries]
    case = {
        "interval": "1m",
        "input_series": [{"series": one, "values": "1+1x60"} for one in series()],
        "promql_expr_test": [
            {"expr": f"count({e}) > bool 0", "eval_time": "50m", "exp_samples": [{"labels": "{}", "value": 1}]}
            for e in exprs
        ],
    }
    path = folder / "case.yaml"
    path.write_text(json.dumps({"rule_files": [], "evaluation_interval": "1m", "tests": [case]}))
    return promql.promtool("test", "rules", path)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_query_returns_data(board: Board, tmp_path: Path) -> None:
    assert answers(board, tmp_path) == ""


def test_a_query_without_an_answer_is_found(tmp_path: Path) -> None:
    for expr in ("gpulease_gpus and on (node) gpulease_bids_total", "gpulease_gpus * on (provider) gpulease_owed_uact"):
        section = Section("s", (Panel("t", "short", "Why.", (Query(expr),)),))
        assert expr in answers(Board("u", "t", "d", (), (section,)), tmp_path)
