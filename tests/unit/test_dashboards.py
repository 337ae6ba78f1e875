"""Dashboards: the files are what the code builds, and every panel asks for something that exists."""

from __future__ import annotations

import json
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.fakes import promql
from tools.dashboards.__main__ import BOARDS, FOLDER
from tools.dashboards.board import COLUMNS, Board, Panel, Section, render

pytestmark = pytest.mark.unit
BODIES = {board.uid: json.loads(render(board)) for board in BOARDS}
EACH = pytest.mark.parametrize("uid", sorted(BODIES))
# Grafana's own unit ids; "suffix:" and "none" are its ways of saying another unit and no unit.
UNITS = {"bytes", "celsius", "cps", "currencyUSD", "joule", "none", "ops", "percentunit", "s", "short", "suffix: AKT"}
UNITS |= {"watt", "wps"}


def panels(uid: str) -> list[dict[str, Any]]:
    return [panel for panel in BODIES[uid]["panels"] if panel["type"] != "row"]


def queries(uid: str) -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in panels(uid) for target in panel["targets"]]


@EACH
def test_the_file_in_the_chart_is_what_the_code_builds(uid: str) -> None:
    board = next(board for board in BOARDS if board.uid == uid)
    written = (FOLDER / f"{uid}.json").read_text()
    assert written == render(board), "run `.venv/bin/python -m tools.dashboards` and commit what it wrote"


def test_the_chart_holds_no_other_dashboard() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(BODIES)


@EACH
def test_every_query_asks_for_metrics_and_labels_that_exist(uid: str) -> None:
    known = promql.known_metrics()
    asked = queries(uid)
    assert len(asked) >= 15
    wrong = {f"{title}: {expr}": found for title, expr in asked if (found := promql.unknown(expr, known))}
    assert wrong == {}


def test_a_query_for_what_nobody_exposes_is_found() -> None:
    known = promql.known_metrics()
    assert promql.unknown("sum(gpulease_gpus_of_gold)", known) == ["metric gpulease_gpus_of_gold"]
    assert promql.unknown('gpulease_gpus{colour="red"}', known) == ["label colour of gpulease_gpus"]
    assert promql.unknown("sum by (colour) (rate(gpulease_bids_total[5m]))", known) == ["label colour"]
    with pytest.raises(ValueError):
        promql.parse("sum(gpulease_gpus")


@EACH
def test_counters_are_looked_at_by_growth(uid: str) -> None:
    """A counter's own value depends on when its process began; lease totals are kept in the store and do not."""
    bare = []
    for title, expr in queries(uid):
        grows = ("rate(", "increase(", "max_over_time(", "and on (device)")
        if "_total" in expr and "gpulease_lease_" not in expr and not any(word in expr for word in grows):
            bare.append((title, expr))
    assert bare == []


@EACH
def test_every_panel_has_a_unit_a_title_and_a_sentence(uid: str) -> None:
    for panel in panels(uid):
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]


@EACH
def test_panels_have_ids_of_their_own_and_do_not_overlap(uid: str) -> None:
    everything = BODIES[uid]["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: dict[tuple[int, int], str] = {}
    for panel in everything:
        place = panel["gridPos"]
        x, y = place.get("x", 0), place.get("y", 0)
        assert x >= 0
        assert x + place["w"] <= COLUMNS
        for cell in [(column, row) for column in range(x, x + place["w"]) for row in range(y, y + place["h"])]:
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]


@EACH
def test_variables_are_used_and_queries_use_no_other(uid: str) -> None:
    listed = BODIES[uid]["templating"]["list"]
    names = {variable["name"] for variable in listed}
    sources = [json.dumps(variable["query"]) for variable in listed]
    used = set().union(*(promql.variables(expr) for _, expr in queries(uid)), *map(promql.variables, sources))
    assert used - promql.GRAFANA_OWN == names - {"datasource"}
    assert "datasource" in names


@EACH
def test_variables_are_filled_from_labels_that_exist(uid: str) -> None:
    known = promql.known_metrics()
    for variable in BODIES[uid]["templating"]["list"]:
        if variable["type"] == "query":
            selector, _, label = variable["query"]["query"].removeprefix("label_values(").rpartition(", ")
            metric = promql.parse(selector).name
            assert label.removesuffix(")") in known[metric], variable["name"]
            assert promql.unknown(selector, known) == []


@EACH
def test_the_sdk_reads_its_own_dashboard_back(uid: str) -> None:
    register_default_plugins()
    again = JSONEncoder(sort_keys=True, indent=2).encode(Dashboard.from_json(BODIES[uid]))
    assert json.loads(again) == BODIES[uid]


def test_panels_flow_over_to_the_next_line_below_the_tallest() -> None:
    section = Section("s", [Panel(str(i), "short", "Why.", (), width=10, height=4 + i) for i in range(3)])
    body = json.loads(render(Board("u", "t", "d", (), (section,))))
    places = [(p["gridPos"].get("x", 0), p["gridPos"].get("y", 0)) for p in body["panels"]]
    assert places == [(0, 0), (0, 1), (10, 1), (0, 6)]
