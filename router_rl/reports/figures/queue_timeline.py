"""Draw the queues of one episode over time, a chart for each method, all on the same scale."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import altair as alt

from ..chart_theme import colour
from ..drawing import Drawing, drawing, values
from ..number_format import number

__all__ = ["draw"]

_MOST = 4  # methods drawn
_TALL = 0.85  # share of an expert's row that the longest queue fills


def draw(traces: Mapping[str, Mapping[str, Any]], looks: object = None) -> list[Drawing]:
    """The first methods' queues, a chart for each.

    Args:
        traces: each method with its data: `experts`, their names, and `seen`, what each arrival found:
            {"second", "jobs": requests at each expert, "down": bool for each expert}.
        looks: not used.
    """
    shown = dict(itertools.islice(traces.items(), _MOST))
    most = max(max(moment["jobs"]) for data in shown.values() for moment in data["seen"])
    end = max(data["seen"][-1]["second"] for data in shown.values()) or 1.0
    return [_chart(method, data, max(most, 1), end) for method, data in shown.items()]


def _chart(method: str, data: Mapping[str, Any], most: float, end: float) -> Drawing:
    experts, seen = data["experts"], data["seen"]
    top = len(experts) - 1
    rows = [row for at in range(len(experts)) for row in _steps(seen, at, experts[at], top - at, most)]
    down = [
        {"second": moment["second"], "until": later["second"], "floor": top - at, "level": top - at + _TALL}
        | {"expert": experts[at]}
        for moment, later in itertools.pairwise(seen)
        for at, is_down in enumerate(moment["down"])
        if is_down
    ]
    names = json.dumps(list(reversed(experts)))
    x = alt.X("second:Q", title="seconds", scale=alt.Scale(domain=[0, end], nice=False))
    y = alt.Y(
        "floor:Q",
        title=None,
        scale=alt.Scale(domain=[0, len(experts)], nice=False),
        axis=alt.Axis(
            values=list(range(len(experts))),
            labelExpr=f"{names}[datum.value]",
            labelBaseline="bottom",
            ticks=False,
            domain=False,
        ),
    )
    outages = alt.Chart(values(down)).mark_rect(color=colour("soft"), opacity=0.3)
    queues = alt.Chart(values(rows)).mark_area(interpolate="step-after", color=colour("rl0"), opacity=0.7)
    tooltip = ["expert:N", "second:Q", alt.Tooltip("jobs:Q", title="requests")]
    chart: Any = alt.layer(
        outages.encode(x=x, x2="until:Q", y=y, y2="level:Q"),
        queues.encode(x=x, y=y, y2="level:Q", detail="expert:N", tooltip=tooltip),
    )
    table = [
        (
            name,
            number(fmean(jobs), 1),
            f"{max(jobs):g}",
            f"{fmean(moment['down'][at] for moment in seen):.0%}",
        )
        for at, name in enumerate(experts)
        for jobs in [[moment["jobs"][at] for moment in seen]]
    ]
    columns = ("Expert", "Mean requests", "Most requests", "Arrivals while it is down")
    description = (
        f"Requests at each expert over {end:,.0f} seconds under {method}; a row is {most:g} requests high"
    )
    title = f"{method} (a row is {most:g} requests high)"
    return drawing(chart, description, columns, table, title=title, height=max(120.0, 30.0 * len(experts)))


def _steps(
    seen: Sequence[Mapping[str, Any]], at: int, name: str, floor: int, most: float
) -> list[dict[str, Any]]:
    """The moments at which an expert's queue has another length, and the last one."""
    rows: list[dict[str, Any]] = []
    for moment in seen:
        jobs = moment["jobs"][at]
        if not rows or jobs != rows[-1]["jobs"] or moment is seen[-1]:
            level = round(floor + _TALL * jobs / most, 4)
            rows.append(
                {"expert": name, "second": moment["second"], "jobs": jobs, "floor": floor, "level": level}
            )
    return rows
