"""Draw which experts are in GPU memory, and which answers, request after request."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt

from ..chart_theme import colour
from ..drawing import ROW, Drawing, drawing, picked, values

__all__ = ["draw"]

_STATES = ("in GPU memory", "answers")


def draw(traces: Mapping[str, Mapping[str, Any]], looks: object = None) -> list[Drawing]:
    """The residency with a menu of the methods.

    Args:
        traces: each method with its data: `experts`, N names; `resident`, a list [R][N] of 0 or 1 for each
            request; `answered`, the expert's index of each request [R].
        looks: not used.
    """
    spans = [{"method": method, **span} for method, data in traces.items() for span in _spans(data)]
    first = next(iter(traces.values()))
    chart: Any = (
        alt.Chart(values(spans))
        .transform_filter("datum.method === picked_method")
        .mark_bar(color=colour("rl0"), cornerRadius=1)
        .encode(
            x=alt.X(
                "from:Q", title="request", scale=alt.Scale(domain=[0, len(first["answered"])], nice=False)
            ),
            x2="to:Q",
            y=alt.Y(
                "expert:N",
                sort=list(first["experts"]),
                title=None,
                scale=alt.Scale(domain=list(first["experts"])),
            ),
            opacity=alt.Opacity(
                "state:O", sort=list(_STATES), scale=alt.Scale(domain=list(_STATES), range=[0.3, 1])
            ),
            tooltip=[
                "expert:N",
                "state:N",
                alt.Tooltip("from:Q", title="from request"),
                alt.Tooltip("to:Q", title="until request"),
            ],
        )
        .add_params(picked("picked_method", "Method", list(traces)))
    )
    table = [
        (
            method,
            expert,
            f"{_share(data['resident'], at):.1%}",
            f"{data['answered'].count(at) / len(data['answered']):.1%}",
        )
        for method, data in traces.items()
        for at, expert in enumerate(data["experts"])
    ]
    description = "Experts in GPU memory, and the expert that answers, over requests"
    return [
        drawing(
            chart,
            description,
            ("Method", "Expert", "In GPU memory", "Answers"),
            table,
            height=ROW * len(first["experts"]),
        )
    ]


def _spans(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Runs of requests in which an expert's state is the same."""
    for at, expert in enumerate(data["experts"]):
        states = [
            "answers" if answered == at else "in GPU memory" if held[at] else ""
            for held, answered in zip(data["resident"], data["answered"], strict=True)
        ]
        begin = 0
        for state, group in itertools.groupby(states):
            end = begin + len(list(group))
            if state:
                yield {"expert": expert, "state": state, "from": begin, "to": end}
            begin = end


def _share(resident: list[list[int]], at: int) -> float:
    return sum(row[at] for row in resident) / len(resident)
