"""One chart of the report: a Vega-Lite specification, its description, and the numbers that it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from .chart_theme import CONFIG

__all__ = ["ROW", "Drawing", "drawing", "picked", "values"]

ROW = 24.0
"""Height of a row of a chart whose rows are names, in px."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One chart.

    Attributes:
        title: heading above the chart; empty where the section has a heading already.
        spec: the Vega-Lite specification, as wide as the page.
        columns: headings of the table of numbers.
        rows: the table, one cell a column.
        keyed: whether the marks are methods, which the section's key shows and hides.
    """

    title: str
    spec: dict[str, Any]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    keyed: bool = False


def drawing(
    chart: alt.TopLevelMixin,
    description: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    height: float,
    title: str = "",
    keyed: bool = False,
) -> Drawing:
    """A chart that takes the width of the page.

    Args:
        chart: a single or layered Altair chart.
        description: what a screen reader says.
        columns: headings of the table of numbers.
        rows: the table, one cell a column.
        height: of the plot, in px.
        title: heading above the chart.
        keyed: whether its marks are methods; the page sets its parameter `shown` to those ticked.
    """
    spec: dict[str, Any] = chart.to_dict()
    del spec["$schema"]  # the browser would warn of another release than the bundle's
    spec |= {"width": "container", "height": height, "config": CONFIG, "description": description}
    return Drawing(title=title, spec=spec, columns=columns, rows=rows, keyed=keyed)


def values(rows: Sequence[Any]) -> alt.InlineData:
    """Rows of JSON as the data of a chart."""
    return alt.InlineData(values=list(rows))


def picked(name: str, label: str, options: Sequence[str]) -> alt.Parameter:
    """A parameter that a menu above the chart sets; the first option is picked.

    Args:
        name: of the parameter in expressions.
        label: of the menu.
        options: the texts to pick from, at least one.
    """
    return alt.param(
        name=name, value=options[0], bind=alt.binding_select(options=list(options), name=f"{label} ")
    )
