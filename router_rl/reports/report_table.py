"""The results table of the report: rows by case, outcomes against the reference, drawn intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from .chart_theme import colour
from .number_format import NOTHING
from .report_series import Series
from .results_table import Reference, by_case, capitalised, columns_of, difference_of, references_of
from .table_format import MARKS, best_of, family_name, marked, outcome_of

__all__ = ["interval_svg", "result_groups", "swatch_svg"]

_LEARNED = ("rl", "gate")  # checked for a collapse; the best single expert "collapses" by design
_OUTCOMES = {"better": "better", "worse": "worse", "same": "n.s."}


def result_groups(results: Mapping[str, Any], series: Sequence[Series]) -> list[dict[str, Any]]:
    """One group of table rows for each case, best utility first, bounds apart.

    Args:
        results: the content of `results.json`, schema 2.
        series: the methods' colours and shapes, of `series_of`.
    """
    looks = {one.name: swatch_svg(one) for one in series}
    references, columns = references_of(results), columns_of(results)
    seeds = len(results["seeds"])
    scale = _difference_scale(results["summary"], references[0]) if references else 1.0
    groups: list[dict[str, Any]] = []
    for label, case_rows in by_case(results):
        best = best_of(case_rows)
        rows = [
            {
                "method": row["method"],
                "label": marked(row),
                "swatch": looks[row["method"]],
                "family": row["family"],
                "family_name": family_name(row["family"], bool(row.get("full_information"))),
                "extra_inputs": bool(row.get("extra_inputs")),
                "is_best": row["method"] == best,
                "utility": row["utility_mean"],
                "utility_ci95": row.get("utility_ci95"),
                "utility_iqm": row.get("utility_iqm"),
                "compared": [_compared(row, each, scale) for each in references],
                "parts": [column.text(column.value(row)) or NOTHING for column in columns],
                **_collapse(row, seeds),
            }
            for row in case_rows
        ]
        groups.append(
            {
                "title": capitalised(label),
                "routers": [row for row in rows if row["family"] != "bound"],
                "bounds": [row for row in rows if row["family"] == "bound"],
            }
        )
    return groups


def swatch_svg(series: Series) -> Markup:
    """One method's mark, for the key and the tables."""
    return Markup(
        '<svg class="swatch" viewBox="-2 -2 4 4" width="16" height="16" aria-hidden="true">'
        f'<path fill="{colour(series.colour)}" d="{series.shape}"/></svg>'
    )


def interval_svg(mean: float, ci95: Sequence[float], scale: float) -> Markup:
    """A difference and its interval on a line from -scale to scale; an arrow marks a mean outside of it.

    Args:
        mean: the difference.
        ci95: its interval.
        scale: half the width of the line, above 0.
    """
    width, half = 88, 38.0
    left, centre, right = (half * min(max(value / scale, -1.0), 1.0) for value in (ci95[0], mean, ci95[1]))
    parts = [
        f'<svg class="interval {outcome_of(ci95)}" viewBox="{-width / 2:g} -8 {width} 16" width="{width}" '
        'height="16" aria-hidden="true"><path class="zero-line" d="M0 -8V8"/>',
        f'<path class="bar" d="M{left:.1f} 0H{right:.1f}"/>' if right - left > 0.05 else "",
    ]
    if abs(mean) > scale:
        edge = math.copysign(half, mean)
        parts.append(f'<path class="dot" d="M{edge + math.copysign(6, mean):.1f} 0L{edge:.1f} -4V4Z"/>')
    else:
        parts.append(f'<circle class="dot" cx="{centre:.1f}" cy="0" r="3.2"/>')
    return Markup("".join(parts) + "</svg>")


def _collapse(row: Mapping[str, Any], seeds: int) -> dict[str, Any]:
    """How many seeds collapsed, and how many stay below the best single expert."""
    collapsed, below = row.get("collapsed") or 0, row.get("below_best_single") or 0
    learned = row["family"] in _LEARNED
    return {
        "collapsed": collapsed,
        "collapsed_of": f"{collapsed}/{seeds or NOTHING}" if learned else NOTHING,
        "below": below,
        "below_of": f"{below}/{seeds or NOTHING}" if learned else NOTHING,
    }


def _compared(row: dict[str, Any], reference: Reference, scale: float) -> dict[str, Any]:
    """A row's difference to a reference, with its outcome in words and its drawing."""
    compared: dict[str, Any] = {"role": None, "difference": None, "outcome": None, "sign": "", "drawing": ""}
    compared |= {"words": "", "css": "same"}
    if reference.holds(row):
        return compared | {"role": reference.role}
    difference = difference_of(row, reference)
    if difference is None:
        return compared
    compared |= {
        "difference": difference,
        "drawing": interval_svg(difference["mean"], difference["ci95"], scale),
    }
    if row["family"] == "bound":
        return compared
    outcome = outcome_of(difference["ci95"])
    return compared | {
        "outcome": outcome,
        "words": f"{MARKS[outcome]} {_OUTCOMES[outcome]}",
        "css": "same" if row.get("extra_inputs") else outcome,
    }


def _difference_scale(summary: Sequence[Mapping[str, Any]], reference: Reference) -> float:
    """The half-width of the drawn differences: wide enough for learned routers, not for outliers."""
    rows = [row for row in summary if row["family"] in _LEARNED]
    rows = rows or [row for row in summary if row["family"] != "bound"]
    differences = [difference_of(row, reference) for row in rows]
    reaches = sorted(max(abs(end) for end in each["ci95"]) for each in differences if each is not None)
    if not reaches or reaches[-1] == 0:
        return 1.0
    return min(reaches[-1], 2 * reaches[len(reaches) // 2] or reaches[-1])
