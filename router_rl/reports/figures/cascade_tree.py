"""Draw the tree of a cascade's choices: which expert is asked, which next, and where it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from ..chart_theme import colour
from ..drawing import ROW, Drawing, drawing, picked, values
from ..number_format import number

__all__ = ["draw"]

_MINIMUM = 0.01  # share of queries below which a branch is not drawn
_BAR = 15  # px
_LETTER, _WIDEST = 7.0, 190.0  # px: a mean letter, and the widest name of a branch
_LEVEL = "\N{THIN SPACE}→\N{THIN SPACE}"  # between the experts of a path


def draw(traces: Mapping[str, Mapping[str, Any]], looks: object = None) -> list[Drawing]:
    """The trees with a menu of the methods; none where no query asks a second expert.

    Args:
        traces: each method with its data: `paths`, a list of {"asked": names, "share", "quality"}, where
            `share` is of the test queries and `quality` the mean over them.
        looks: not used.
    """
    trees = {
        method: list(_branches(data["paths"], ()))
        for method, data in traces.items()
        if any(len(path["asked"]) > 1 for path in data["paths"])
    }
    if not trees:
        return []
    rows = [{"method": method, **branch} for method, branches in trees.items() for branch in branches]
    indent = "\N{NO-BREAK SPACE}" * 4
    steps = f"split(datum.value, {_LEVEL!r})"
    depth = f"(length({steps}) - 1)"
    names = f"slice('{indent * 12}', 0, 4 * {depth}) + ({depth} ? '↳ ' : '') + peek({steps})"
    base = (
        alt.Chart(values(rows))
        .transform_filter("datum.method === picked_method")
        .encode(
            y=alt.Y(
                "path:N",
                sort=None,
                title=None,
                axis=alt.Axis(
                    labelExpr=names,
                    labelAlign="left",
                    labelPadding=_widest(rows),
                    labelLimit=_WIDEST,
                    ticks=False,
                ),
            ),
            tooltip=[
                alt.Tooltip("name:N", title="expert"),
                alt.Tooltip("share:Q", title="asked", format=".1%"),
                alt.Tooltip("stops:Q", title="stops there", format=".1%"),
                alt.Tooltip("quality_text:N", title="quality where it stops"),
            ],
        )
    )
    ticks = [0, 0.25, 0.5, 0.75, 1]
    across = alt.X(
        "share:Q",
        title="share of queries (strong: stops there)",
        scale=alt.Scale(domain=[0, 1.4], nice=False),
        axis=alt.Axis(format=".0%", values=ticks),
    )
    asked = base.mark_bar(color=colour("rl0"), opacity=0.3, size=_BAR).encode(x=across)
    stops = base.mark_bar(color=colour("rl0"), size=_BAR).encode(x="stops:Q")
    words = base.mark_text(align="left", dx=5, text=alt.expr("width > 450 ? datum.long : datum.short"))
    chart: Any = (asked + stops + words.encode(x="share:Q")).add_params(
        picked("picked_method", "Method", list(trees))
    )
    table = [(row["method"], row["path"], *_percentages(row), row["quality_text"]) for row in rows]
    return [
        drawing(
            chart,
            "Which expert is asked, and which next: bars of the share of the test queries",
            ("Method", "Asked", "Share of queries", "Stops there", "Quality where it stops"),
            table,
            height=ROW * max(len(tree) for tree in trees.values()),
        )
    ]


def _percentages(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{row['share']:.1%}", f"{row['stops']:.1%}"


def _widest(rows: Sequence[Mapping[str, Any]]) -> float:
    """The width of the names' column in px."""
    letters = max(5 * row["path"].count(_LEVEL) + len(row["name"]) for row in rows)
    return min(_LETTER * letters + 4, _WIDEST)


def _branches(paths: Sequence[Mapping[str, Any]], before: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The branches after some experts, the largest first, each followed by its own branches."""
    depth = len(before)
    here = [path for path in paths if tuple(path["asked"][:depth]) == before and len(path["asked"]) > depth]
    shares: Counter[str] = Counter()
    for path in here:
        shares[path["asked"][depth]] += path["share"]
    for name, share in shares.most_common():
        if share < _MINIMUM:
            continue
        after = (*before, name)
        stop = next((path for path in here if tuple(path["asked"]) == after), None)
        stops, quality = (0.0, None) if stop is None else (stop["share"], stop["quality"])
        short, where = f"{share:.0%}", number(quality, 2)
        long = short if stop is None else f"{short}, stops {stops:.0%}, quality {where}"
        yield {
            "path": _LEVEL.join(after),
            "name": name,
            "share": share,
            "stops": stops,
            "quality_text": where,
            "short": short,
            "long": long,
        }
        yield from _branches(paths, after)
