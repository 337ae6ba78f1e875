"""What the four dashboards have in common: a grid that cannot overlap, panels that always have a unit and a reason.

A dashboard is sections of panels, given in reading order; places on Grafana's 24 columns follow from the widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import dashboard as dash
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, StackingConfig, VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    FieldTextAlignment,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

COLUMNS = 24
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
UACT_PER_USD = 1_000_000
AKT = "suffix: AKT"
USD = "currencyUSD"
GREEN, AMBER, RED = "green", "orange", "red"


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL and the name of its series, with ``{{label}}`` for a label's value."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """``kind`` is ``lines``, ``areas`` (stacked), ``number`` or ``table``; ``why`` says how to read it.

    ``steps`` are (from value, colour): what a number's colour changes at; the first colour holds below.
    """

    title: str
    unit: str
    why: str
    queries: Sequence[Query]
    kind: str = "lines"
    width: int = 8
    height: int = 8
    decimals: int | None = None
    base: str = GREEN
    steps: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Choice:
    """A variable filled by a query; ``hidden`` ones follow from another variable."""

    name: str
    label: str
    query: str
    many: bool = True
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    uid: str
    title: str
    description: str
    choices: Sequence[Choice]
    sections: Sequence[Section]
    tags: Sequence[str] = field(default=("gpulease",))


def lines(title: str, unit: str, why: str, *queries: Query, stacked: bool = False, width: int = 8) -> Panel:
    return Panel(title, unit, why, queries, "areas" if stacked else "lines", width)


def number(
    title: str,
    unit: str,
    why: str,
    expr: str,
    *,
    base: str = GREEN,
    steps: Sequence[tuple[float, str]] = (),
    width: int = 3,
    decimals: int | None = None,
) -> Panel:
    return Panel(title, unit, why, (Query(expr),), "number", width, 4, decimals, base, steps)


def rows_of(title: str, unit: str, why: str, expr: str, *, width: int = 8) -> Panel:
    """A table of the newest value by label."""
    return Panel(title, unit, why, (Query(expr),), "table", width)


def render(board: Board) -> str:
    """The dashboard as Grafana takes it; the same input gives the same bytes."""
    builder = (
        dash.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([*board.tags])
        .editable()
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dash.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for choice in board.choices:
        builder = builder.with_variable(_variable(choice))
    y, next_id = 0, 1
    for section in board.sections:
        row = dash.Row(section.title).grid_pos(model.GridPos(h=1, w=COLUMNS, x=0, y=y)).id(next_id)
        builder = builder.with_row(row)
        y, next_id = y + 1, next_id + 1
        x, tallest = 0, 0
        for panel in section.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            place = model.GridPos(h=panel.height, w=panel.width, x=x, y=y)
            builder = builder.with_panel(_panel(panel).grid_pos(place).id(next_id))
            x, tallest, next_id = x + panel.width, max(tallest, panel.height), next_id + 1
        y += tallest
    return JSONEncoder(sort_keys=True, indent=2).encode(builder.build()) + "\n"


def _variable(choice: Choice) -> dash.QueryVariable:
    made = (
        dash.QueryVariable(choice.name)
        .label(choice.label)
        .datasource(SOURCE)
        .query({"query": choice.query, "refId": choice.name})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(choice.many)
        .include_all(choice.many)
    )
    if choice.many:
        made = made.all_value(".*").current(model.VariableOption(selected=True, text="All", value="$__all"))
    if choice.hidden:
        made = made.hide(model.VariableHide.HIDE_VARIABLE)
    return made


def _panel(panel: Panel) -> Any:
    builders: dict[str, Any] = {
        "lines": timeseries.Panel,
        "areas": timeseries.Panel,
        "number": stat.Panel,
        "table": table.Panel,
    }
    made = builders[panel.kind]().title(panel.title).description(panel.why).unit(panel.unit).datasource(SOURCE)
    if panel.decimals is not None:
        made = made.decimals(panel.decimals)
    if panel.kind in ("lines", "areas"):
        legend = VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM)
        made = made.legend(legend.display_mode(LegendDisplayMode.LIST)).fill_opacity(10).min(0)
    if panel.kind == "areas":
        made = made.stacking(StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(60)
    if panel.kind == "table":
        made = made.align(FieldTextAlignment.AUTO).inspect(False)
    if panel.kind == "number":
        made = made.reduce_options(ReduceDataOptions().calcs(["lastNotNull"])).thresholds(_thresholds(panel))
        made = made.graph_mode(BigValueGraphMode.NONE).no_value("no data")
    for index, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).ref_id(chr(ord("A") + index))
        if query.legend:
            target = target.legend_format(query.legend)
        if panel.kind == "table":
            target = target.format(PromQueryFormat.TABLE).instant()
        elif panel.kind == "number":
            target = target.instant()
        made = made.with_target(target)
    return made


def _thresholds(panel: Panel) -> dash.ThresholdsConfig:
    steps = [model.Threshold(value=None, color=panel.base)]
    steps += [model.Threshold(value=value, color=color) for value, color in panel.steps]
    return dash.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)
