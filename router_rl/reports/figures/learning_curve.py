"""Draw each method's utility on validation rows over the steps of its fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from ..drawing import Drawing, drawing
from ..number_format import number
from ..report_series import Series
from .method_lines import method_lines

__all__ = ["draw"]


def draw(traces: Mapping[str, Mapping[str, Any]], looks: Mapping[str, Series]) -> list[Drawing]:
    """The curves of all methods in one chart.

    Args:
        traces: each method with its data: `curve`, pairs of a step and the mean utility on validation rows.
        looks: the methods' colours and shapes by name.
    """
    rows: list[dict[str, Any]] = [
        {"method": method, "step": step, "done": step / max(data["curve"][-1][0], 1), "utility": utility}
        for method, data in traces.items()
        for step, utility in data["curve"]
    ]
    chart = method_lines(
        rows,
        looks,
        alt.X(
            "done:Q",
            title="share of the steps",
            scale=alt.Scale(domain=[0, 1], padding=6),
            axis=alt.Axis(format=".0%"),
        ),
        alt.Y("utility:Q", title="utility on validation", scale=alt.Scale(zero=False)),
        [alt.Tooltip("step:Q"), alt.Tooltip("utility:Q", format=".4f")],
    )
    table = [(row["method"], str(row["step"]), number(row["utility"], 4)) for row in rows]
    description = "Mean utility on validation rows over the steps of each fit"
    return [drawing(chart, description, ("Method", "Step", "Utility"), table, height=320, keyed=True)]
