"""Reads `results.json` of every version into one form, and finds the differences between two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

__all__ = ["TOLERANCE", "Difference", "Rows", "compare_rows", "rows_of"]

TOLERANCE = 1e-9
"""Largest difference between equal numbers: absolute below 1, relative above 1."""

Rows = dict[str, dict[str, float]]
"""Numbers by part, by row: `method/case/seed/split`, such as `exact_pg/compute_weight=0.1/0/test`."""

_CASE = {
    "routing": "compute_weight",
    "cascade": "compute_weight",
    "queueing": "load",
    "caching": "resident_share",
    "token_moe": "experts_per_token",
}
"""The value that distinguishes the cases of a problem."""

# Keys, times and inputs.
_LEFT_OUT = ("seed", "fit_seconds", "load_weight", "budget", "resident_gb")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One number that differs, or one row that one side lacks.

    Attributes:
        place: `comparison/method/case/seed/split/part`; the part of a missing row is `row`.
        before, after: the numbers; None if missing.
        size: absolute below 1, relative above 1; infinite if one number is missing or not finite.
        reason: why the difference is expected; None if it is not.
    """

    place: str
    before: float | None
    after: float | None
    size: float
    reason: str | None


def rows_of(results: Mapping[str, Any]) -> Rows:
    """Return the numbers in the rows of a `results.json`, without times.

    Args:
        results: content of the file, schema 1 (static or environment) or 2.

    Returns:
        numbers by row and part. Flags, texts and hyperparameters are left out.

    Raises:
        ValueError: two rows have the same key, or the schema is unknown.
    """
    version = results["schema_version"]
    if version == 1:
        problem = results.get("env", "routing")
    elif version == 2:
        problem = results["problem"]["name"]
    else:
        raise ValueError(f"schema version {version} is unknown")
    case = _CASE[problem]
    rows: Rows = {}
    for row in results["rows"]:
        key = f"{row['method']}/{case}={row[case]:g}/{row['seed']}/{row['split']}"
        if key in rows:
            raise ValueError(f"two rows are {key}")
        rows[key] = _numbers(row, (*_LEFT_OUT, case))
    return rows


def _numbers(row: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, float]:
    """Return the numbers of a row, the experts' shares among them."""
    numbers: dict[str, float] = {}
    for name, value in row.items():
        if name == "shares" and value is not None:
            numbers |= {f"share {place}": float(share) for place, share in enumerate(value)}
        elif name not in left_out and isinstance(value, int | float) and not isinstance(value, bool):
            numbers[name] = float(value)
    return numbers


def compare_rows(name: str, before: Rows, after: Rows, expected: Mapping[str, str]) -> list[Difference]:
    """Return every difference, largest first. A part that only `after` has is not a difference.

    Args:
        name: of the comparison.
        before, after: rows of the two sides.
        expected: reasons by pattern of a place, as `golden_set.EXPECTED`.

    Returns:
        differences above `TOLERANCE`, and missing rows and parts.
    """
    found: list[Difference] = []

    def add(place: str, one: float | None, two: float | None) -> None:
        size = _size(one, two)
        if size > TOLERANCE:
            place = f"{name}/{place}"
            reason = next((why for pattern, why in expected.items() if fnmatchcase(place, pattern)), None)
            found.append(Difference(place=place, before=one, after=two, size=size, reason=reason))

    for key in [*before, *(key for key in after if key not in before)]:
        if key not in after or key not in before:
            add(f"{key}/row", before.get(key, {}).get("utility"), after.get(key, {}).get("utility"))
            continue
        for part, value in before[key].items():
            add(f"{key}/{part}", value, after[key].get(part))
    return sorted(found, key=lambda one: -one.size)


def _size(one: float | None, two: float | None) -> float:
    if one is None or two is None:
        return math.inf
    if one == two or (math.isnan(one) and math.isnan(two)):
        return 0.0
    size = abs(one - two) / max(1.0, abs(one), abs(two))
    return size if math.isfinite(size) else math.inf
