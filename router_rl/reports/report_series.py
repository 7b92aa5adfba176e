"""How the report shows each method: its colour, its shape, and whether it leads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .table_format import marked

__all__ = ["MOST_SHOWN", "SHAPES", "Mean", "Point", "Series", "leading_methods", "series_of"]

Point = tuple[float, float]

COLOURS_PER_FAMILY = 3
MOST_SHOWN = 14  # with more methods, only those that lead are shown from the start
SHAPES = (
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",  # circle
    "M-3.6 -3.6H3.6V3.6H-3.6Z",  # square
    "M0 -4.8L4.6 3.4H-4.6Z",  # triangle
    "M0 -5.2L5.2 0L0 5.2L-5.2 0Z",  # diamond
    "M0 4.8L4.6 -3.4H-4.6Z",  # triangle, point down
    "M-1.5 -4.6H1.5V-1.5H4.6V1.5H1.5V4.6H-1.5V1.5H-4.6V-1.5H-1.5Z",  # cross
    "M-4.6 -2.4L0 -5L4.6 -2.4V2.4L0 5L-4.6 2.4Z",  # hexagon
)
STAR = "M0 -7L1.7 -2.3H6.7L2.7 0.7L4.2 5.6L0 2.7L-4.2 5.6L-2.7 0.7L-6.7 -2.3H-1.7Z"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A method's mean in one case (its label), with 95% intervals where they are known."""

    case: str
    compute: float
    quality: float
    compute_ci95: Point | None
    quality_ci95: Point | None

    @property
    def at(self) -> Point:
        """Return the place on the axes: (compute, quality)."""
        return (self.compute, self.quality)


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One method as the figures show it: a style class, a shape, and its means by rising compute.

    Attributes:
        leading: shown from the start; the others are faint until they are ticked.
        label: its name, with a dagger if it uses extra inputs.
    """

    name: str
    family: str
    css: str
    shape: str
    means: tuple[Mean, ...]
    leading: bool
    label: str


def series_of(summary: Sequence[dict[str, Any]]) -> list[Series]:
    """The methods of a summary in order of appearance, each with its look.

    Colour names the family (three shades of it); shape tells its methods apart. 3 and 7 share no factor,
    so 21 methods of one family look different. Those that lead take their looks first: they differ in both.

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
        means = [
            Mean(
                case=row["case"],
                compute=row["compute_mean"],
                quality=row["quality_mean"],
                compute_ci95=_pair(row.get("compute_ci95")),
                quality_ci95=_pair(row.get("quality_ci95")),
            )
            for row in rows
            if row.get("compute_mean") is not None and row.get("quality_mean") is not None
        ]
        series.append(
            Series(
                name=name,
                family=family,
                css=f"m{len(series)} {known}{place % COLOURS_PER_FAMILY}",
                shape=STAR if known == "bound" else SHAPES[place % len(SHAPES)],
                means=tuple(sorted(means, key=lambda mean: mean.at)),
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


def _pair(value: Sequence[float | None] | None) -> Point | None:
    if value is None or value[0] is None or value[1] is None:
        return None
    return (value[0], value[1])
