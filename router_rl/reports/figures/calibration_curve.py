"""Draw a reliability diagram: the probability of the choices against the share of them that were right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from ..chart_theme import colour
from ..drawing import Drawing, drawing, values
from ..number_format import number
from ..report_series import Series
from .method_lines import method_lines

__all__ = ["draw"]


def draw(traces: Mapping[str, Mapping[str, Any]], looks: Mapping[str, Series]) -> list[Drawing]:
    """The curves of all methods in one chart, with the diagonal of a calibrated router.

    Args:
        traces: each method with its data: `bins`, a list of {"stated", "came_true", "queries"}: the mean
            probability of the choices in a bin, the share of them that were right, and their number.
        looks: the methods' colours and shapes by name.
    """
    rows: list[dict[str, Any]] = [
        {"method": method, **each} for method, data in traces.items() for each in data["bins"]
    ]
    x = alt.X(
        "stated:Q",
        title="probability of the choice",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format=".0%"),
    )
    y = alt.Y(
        "came_true:Q",
        title="share that was right",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format=".0%"),
    )
    ends = values([{"stated": end, "came_true": end} for end in (0, 1)])
    diagonal = alt.Chart(ends).mark_line(strokeDash=[5, 4], color=colour("soft")).encode(x=x, y=y)
    tooltip = [alt.Tooltip("stated:Q", title="probability", format=".1%")]
    tooltip += [alt.Tooltip("came_true:Q", title="right", format=".1%"), alt.Tooltip("queries:Q")]
    chart = method_lines(rows, looks, x, y, tooltip, diagonal)
    table = [
        (row["method"], number(row["stated"]), number(row["came_true"]), str(row["queries"])) for row in rows
    ]
    columns = ("Method", "Probability of the choice", "Share that was right", "Queries")
    description = "Share of the choices that were right against the probability that the router gave them"
    return [drawing(chart, description, columns, table, height=340, keyed=True)]
