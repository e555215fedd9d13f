"""Makes the boards: ``python monitoring/grafana/build.py`` writes provisioning/dashboards/*.json, which Grafana reads.

A board is a list of rows, a row a title and its panels; ``tests/monitoring`` runs every query of them against a real stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boards import BOARDS, Board, Panel
from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

FOLDER = Path(__file__).parent / "provisioning" / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
HEIGHTS = {"stat": 4, "graph": 8}
RUNBOOKS = "docs/operations.md"


def build(board: Board) -> str:
    """A board as Grafana's JSON."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["smarttextgen"])
        .editable()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("SmartTextGen's boards").type("dashboards").tags(["smarttextgen"]).as_dropdown(True)
        )
    )
    for name, (label, query) in board.variables.items():
        made.with_variable(
            dashboard.QueryVariable(name)
            .label(label)
            .datasource(SOURCE)
            .query(query)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".+")
        )
    for title, panels in board.rows:
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def _panel(panel: Panel) -> timeseries.Panel | stat.Panel:
    made = (stat.Panel() if panel.kind == "stat" else timeseries.Panel()).title(panel.title)
    made.description(_description(panel)).datasource(SOURCE).unit(panel.unit).span(panel.width)
    made.height(HEIGHTS[panel.kind]).thresholds(_thresholds(panel.limits, bad_below=panel.bad_below))
    for number, (query, legend) in enumerate(panel.queries):
        made.with_target(
            prometheus.Dataquery()
            .expr(query)
            .legend_format(legend)
            .ref_id(chr(ord("A") + number))
            .range()
            .datasource(SOURCE)
        )
    if isinstance(made, stat.Panel):
        return made.graph_mode(BigValueGraphMode.AREA).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    made.fill_opacity(10).line_width(1).min(0)
    if panel.stacked:
        made.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if panel.limits:
        made.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    return made.legend(common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(True)).tooltip(
        common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI)
    )


def _description(panel: Panel) -> str:
    runbook = f"\n\nRunbook: {RUNBOOKS}#{panel.alert.lower()} ({panel.alert})" if panel.alert else ""
    return panel.description + runbook


def _thresholds(limits: Sequence[float], *, bad_below: bool) -> dashboard.ThresholdsConfig:
    """Colours from each limit on; ``bad_below``: the lowest values are the bad ones."""
    colors = ["green", "orange", "red"] if len(limits) == 2 else ["green", "red"]  # a warning and an alarm
    if bad_below:
        colors.reverse()
    steps = [Threshold(value=None, color=colors[0])]
    steps += [Threshold(value=limit, color=color) for limit, color in zip(limits, colors[1:], strict=False)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def main() -> None:
    """Write every board."""
    for board in BOARDS:
        (FOLDER / f"{board.uid}.json").write_text(build(board))


if __name__ == "__main__":
    main()
