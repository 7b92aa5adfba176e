"""A heat map of shares with the percentages in its squares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from .chart_theme import colour
from .drawing import values

__all__ = ["heat_map"]

_LETTERS = 30  # letters of the names below the squares, all together; with more, the names are turned


def heat_map(
    rows: Sequence[Mapping[str, Any]],
    experts: Sequence[str],
    x: str,
    y: str,
    parameters: Sequence[alt.Parameter],
    shown: str,
) -> Any:
    """A chart with a square for each share.

    Args:
        rows: with `share` [N], from 0 to 1 or None, the fields of the axes, and those of `shown`.
        experts: N names, which become the field `expert`.
        x: the field of the horizontal axis; its names appear in the order of the rows.
        y: the field of the vertical axis.
        parameters: menus above the chart.
        shown: an expression of `datum` and the parameters: which rows are shown.
    """
    names = experts if x == "expert" else list(dict.fromkeys(row[x] for row in rows))
    turned = len(names) * max(map(len, names), default=0) > _LETTERS
    base = (
        alt.Chart(values(rows))
        .transform_filter(shown)
        .transform_calculate(expert=json.dumps(list(experts)))
        .transform_flatten(["share", "expert"])
        .transform_filter("isValid(datum.share)")
        .encode(
            x=alt.X(f"{x}:N", sort=None, title=None, axis=alt.Axis(labelAngle=-40 if turned else 0)),
            y=alt.Y(f"{y}:N", sort=None, title=None),
        )
    )
    squares = base.mark_rect(color=colour("heat"), stroke=colour("card")).encode(
        opacity=alt.Opacity("share:Q", legend=None, scale=alt.Scale(domainMin=0, range=[0, 1])),
        tooltip=[f"{y}:N", f"{x}:N", alt.Tooltip("share:Q", format=".1%")],
    )
    percentages = base.mark_text(
        color=colour("heat-ink"), fontSize=alt.expr("bandwidth('x') >= 26 ? 12 : 0"), aria=False
    ).encode(text=alt.Text("share:Q", format=".0%"))
    return (squares + percentages).add_params(*parameters)
