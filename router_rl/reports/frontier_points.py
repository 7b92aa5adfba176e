"""Points of the charts of quality against cost, and the part that a close-up shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .chart_theme import colour
from .number_format import amount, interval, number
from .report_series import CIRCLE, Series
from .results_table import CostUnit

__all__ = ["Span", "close_up", "expert_points", "method_points", "padded"]

Span = tuple[float, float]

_MOST_EXPERT_NAMES = 12  # with more experts, only those on the zero router's hull are named


def method_points(one: Series, unit: CostUnit) -> Iterator[dict[str, Any]]:
    """Each case of a method as a point; the name stands at the last one.

    Args:
        one: the method, see `series_of`.
        unit: of the costs.
    """
    look = {"ink": colour(one.colour), "fill": colour(one.colour), "edge": colour("card"), "shape": one.shape}
    for place, row in enumerate(one.rows):
        x, y = row.get("compute_ci95") or (None, None), row.get("quality_ci95") or (None, None)
        point = {"method": one.name, "name": one.label, "case": row["case"], **look}
        point |= {"label": one.label if place == len(one.rows) - 1 else "", "rank": 1 + one.leading}
        point |= {"quality_low": y[0], "quality_high": y[1]}
        point |= {"cost_low": _times(x[0], unit), "cost_high": _times(x[1], unit)}
        yield point | _place(point, row["compute_mean"], row["quality_mean"], y, unit)


def expert_points(
    singles: Sequence[Mapping[str, Any]], hull: Sequence[Span], unit: CostUnit
) -> Iterator[dict[str, Any]]:
    """Each single expert as a hollow circle.

    Args:
        singles: every single expert: {"expert", "compute", "quality"}.
        hull: (cost, quality) of the zero router's points.
        unit: of the costs.
    """
    look = {"ink": colour("ink"), "fill": colour("card"), "edge": colour("ink"), "shape": CIRCLE}
    for one in singles:
        if one["compute"] is None or one["quality"] is None:
            continue
        at = (unit.per_compute * one["compute"], one["quality"])
        named = len(singles) <= _MOST_EXPERT_NAMES or at in hull
        point = {"name": one["expert"], "case": "single expert", **look, "rank": 3 if named else 0}
        point |= {"label": one["expert"] if named else ""}
        yield point | _place(point, one["compute"], one["quality"], None, unit)


def close_up(points: Sequence[Mapping[str, Any]]) -> tuple[Span, Span]:
    """The spans of cost and quality around some points: far outliers are left out, median intervals fit in.

    Args:
        points: of `method_points`, at least one.
    """
    halves = sorted(
        (point["quality_high"] - point["quality_low"]) / 2
        for point in points
        if point["quality_low"] is not None and point["quality_high"] is not None
    )
    half = halves[len(halves) // 2] if halves else 0.0
    across, up = (_fenced([point[name] for point in points]) for name in ("cost", "quality"))
    (left, right), low = padded(across, 0.12), min(across)
    return (max(left, low / 2), right), padded(up, 0.2, minimum=half)  # a logarithmic axis has no 0


def padded(ends: Sequence[float], share: float, minimum: float = 0.0) -> Span:
    """A span with a margin, never empty.

    Args:
        ends: numbers that it holds, at least one.
        share: the margin, as a share of the span.
        minimum: of the margin.
    """
    low, high = min(ends), max(ends)
    margin = max(share * (high - low), minimum) or 0.02 * (abs(high) or 1.0)
    return low - margin, high + margin


def _place(
    point: Mapping[str, Any],
    compute: float,
    quality: float,
    ci95: Sequence[float | None] | None,
    unit: CostUnit,
) -> dict[str, Any]:
    """Where a point lies, in numbers and in words."""
    cost = unit.per_compute * compute
    texts = {"quality_text": f"{number(quality)} {interval(ci95, 3)}".strip()}
    texts |= {"cost_text": amount(cost), "compute_text": number(compute)}
    words = f"{point['name']}, {point['case']}: quality {texts['quality_text']}, "
    words += f"{unit.label} {texts['cost_text']}"
    return {"quality": quality, "compute": compute, "cost": cost, **texts, "words": words}


def _times(value: float | None, unit: CostUnit) -> float | None:
    return None if value is None else unit.per_compute * value


def _fenced(numbers: Sequence[float]) -> list[float]:
    """Drop far outliers (three interquartile ranges away): one collapsed router must not set the scale."""
    ordered = sorted(numbers)
    low, high = ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]
    reach = 3 * (high - low)
    return [value for value in ordered if low - reach <= value <= high + reach]
