"""Lines of the methods over one number, which the section's key shows and hides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from ..chart_theme import colour
from ..drawing import values
from ..report_series import CIRCLE, Series

__all__ = ["method_lines"]

_SHOWN = "indexof(shown, datum.method) >= 0"


def method_lines(
    rows: Sequence[Mapping[str, Any]],
    looks: Mapping[str, Series],
    x: alt.X,
    y: alt.Y,
    tooltip: Sequence[alt.Tooltip],
    *layers: Any,
) -> Any:
    """A chart with a line and marks for each method that the parameter `shown` names.

    Args:
        rows: with `method` and the fields of the axes and the tooltip.
        looks: the methods' colours and shapes by name.
        x: the horizontal axis.
        y: the vertical axis.
        tooltip: of a mark, beside the method.
        layers: charts that lie beneath.
    """
    looking = [
        {**row, "ink": _ink(looks.get(row["method"])), "shape": _shape(looks.get(row["method"]))}
        for row in rows
    ]
    methods = dict.fromkeys(row["method"] for row in rows)
    shown = [name for name in methods if name not in looks or looks[name].leading]
    base = alt.Chart(values(looking)).transform_filter(_SHOWN).encode(x=x, y=y)
    lines = base.mark_line(clip=True, strokeWidth=1.6).encode(
        detail="method:N", stroke=alt.Stroke("ink:N", scale=None)
    )
    marks = base.mark_point(clip=True, filled=True, size=50, stroke=colour("card"), strokeWidth=0.8).encode(
        fill=alt.Fill("ink:N", scale=None),
        shape=alt.Shape("shape:N", scale=None),
        tooltip=[alt.Tooltip("method:N"), *tooltip],
    )
    return alt.layer(*layers, lines, marks).add_params(alt.param(name="shown", value=shown))


def _ink(one: Series | None) -> str:
    return colour("soft" if one is None else one.colour)


def _shape(one: Series | None) -> str:
    return CIRCLE if one is None else one.shape
