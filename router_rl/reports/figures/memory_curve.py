"""Draw quality and utility against the bytes that are resident in GPU memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from ..drawing import Drawing, drawing, values
from ..number_format import number
from ..report_series import Series
from .method_lines import method_lines

__all__ = ["draw"]

_DEEPEST = 0.06  # utility below the best that is still drawn

Row = Mapping[str, Any]


def draw(summary: Sequence[Row], looks: Mapping[str, Series]) -> list[Drawing]:
    """A chart of quality and one of utility; none where only one size of memory was compared.

    Args:
        summary: of `results.json`; its cases have `resident_gb`, and `resident_share` of the experts' bytes.
        looks: the methods' colours and shapes by name.
    """
    if len({row["resident_gb"] for row in summary}) < 2:
        return []
    known = [row for row in summary if row["utility_mean"] is not None and row["quality_mean"] is not None]
    top = max(row["utility_mean"] for row in known)
    return [
        _chart(known, looks, "quality", alt.Scale(zero=False, padding=8)),
        _chart(known, looks, "utility", alt.Scale(zero=False, domainMin=top - _DEEPEST, padding=8)),
    ]


def _chart(summary: Sequence[Row], looks: Mapping[str, Series], name: str, scale: alt.Scale) -> Drawing:
    rows = [
        {"method": row["method"], "case": row["case"], "gb": row["resident_gb"], "value": row[f"{name}_mean"]}
        for row in summary
    ]
    half = [{"gb": row["resident_gb"]} for row in summary if row.get("resident_share") == 0.5][:1]
    x = alt.X("gb:Q", title="GB resident", scale=alt.Scale(zero=False, nice=False, padding=12))
    line = alt.Chart(values(half)).mark_rule(strokeDash=[5, 4]).encode(x=x)
    tooltip = [alt.Tooltip("case:N"), alt.Tooltip("value:Q", title=name, format=".4f")]
    chart = method_lines(
        rows, looks, x, alt.Y("value:Q", title=name, scale=scale), tooltip, *([line] if half else [])
    )
    table = [(row["method"], f"{row['gb']:.3g}", number(row["value"], 4)) for row in rows]
    columns = ("Method", "GB resident", name.capitalize())
    description = f"Mean {name} on test against GB resident in GPU memory"
    return drawing(chart, description, columns, table, title=name.capitalize(), height=300, keyed=True)
