"""How the report shows each method: its colour, its shape, and whether it is shown from the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .table_format import marked

__all__ = ["CIRCLE", "MOST_SHOWN", "Series", "leading_methods", "series_of"]

COLOURS_PER_FAMILY = 3
MOST_SHOWN = 14  # with more methods, only those that lead are shown from the start
CIRCLE = "M-1 0A1 1 0 1 0 1 0A1 1 0 1 0 -1 0Z"
SHAPES = (  # paths in a box from -1 to 1, as Vega draws symbols
    CIRCLE,
    "M-.9 -.9H.9V.9H-.9Z",  # square
    "M0 -1.2L1.15 .85H-1.15Z",  # triangle
    "M0 -1.3L1.3 0L0 1.3L-1.3 0Z",  # diamond
    "M0 1.2L1.15 -.85H-1.15Z",  # triangle, point down
    "M-.37 -1.15H.37V-.37H1.15V.37H.37V1.15H-.37V.37H-1.15V-.37H-.37Z",  # cross
    "M-1.15 -.6L0 -1.25L1.15 -.6V.6L0 1.25L-1.15 .6Z",  # hexagon
)
STAR = "M0 -1.75L.42 -.57H1.67L.67 .17L1.05 1.4L0 .67L-1.05 1.4L-.67 .17L-1.67 -.57H-.42Z"


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One method as the figures show it.

    Attributes:
        name: of the method.
        family: of the method.
        colour: a name in `chart_theme.COLOURS`.
        shape: an SVG path in a box from -1 to 1.
        rows: of the summary, those with a mean compute and quality, by rising compute.
        leading: shown from the start; the others are faint until they are ticked.
        label: its name, with a dagger if it uses extra inputs.
    """

    name: str
    family: str
    colour: str
    shape: str
    rows: tuple[dict[str, Any], ...]
    leading: bool
    label: str


def series_of(summary: Sequence[dict[str, Any]]) -> list[Series]:
    """The methods of a summary in order of appearance, each with its colour and shape.

    The colour is one of three shades of the family's; the shape is one of seven. 3 and 7 share no factor, so
    21 methods of one family look different. Leading methods get theirs first, so the first three of a family
    differ in both.

    Args:
        summary: of `results.json`.
    """
    leading = leading_methods(summary)
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in summary:
        by_method.setdefault(row["method"], []).append(row)
    places: dict[str, int] = {}  # among the methods of its family
    seen: dict[str, int] = {}
    for name in sorted(by_method, key=lambda name: name not in leading):
        family = by_method[name][0]["family"]
        places[name] = seen[family] = seen.get(family, -1) + 1
    series: list[Series] = []
    for name, rows in by_method.items():
        family, place = rows[0]["family"], places[name]
        known = family if family in ("rl", "gate", "baseline", "bound") else "baseline"
        placed = [
            row for row in rows if row.get("compute_mean") is not None and row.get("quality_mean") is not None
        ]
        series.append(
            Series(
                name=name,
                family=family,
                colour="ink" if known == "bound" else f"{known}{place % COLOURS_PER_FAMILY}",
                shape=STAR if known == "bound" else SHAPES[place % len(SHAPES)],
                rows=tuple(sorted(placed, key=lambda row: (row["compute_mean"], row["quality_mean"]))),
                leading=name in leading,
                label=marked(rows[0]),
            )
        )
    return series


def leading_methods(summary: Sequence[dict[str, Any]]) -> set[str]:
    """The methods to show from the start: all where they are few, else the best of each family.

    Those are the methods that validation picks in some case (test, where validation is unknown), the bounds,
    and the best single expert. A method with extra inputs is never picked.

    Args:
        summary: of `results.json`.
    """
    methods = {row["method"] for row in summary}
    if len(methods) <= MOST_SHOWN:
        return methods
    leading = {row["method"] for row in summary if row["family"] == "bound" or row["method"] == "best_single"}
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in summary:
        place = (row["family"], row["case"])
        if not row.get("extra_inputs") and (place not in best or _utility(row) > _utility(best[place])):
            best[place] = row
    return leading | {row["method"] for row in best.values()}


def _utility(row: dict[str, Any]) -> float:
    for value in (row.get("validation_utility_mean"), row["utility_mean"]):
        if value is not None:
            return float(value)
    return float("-inf")
