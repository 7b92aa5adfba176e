"""Prompts, groups, splits and folds that are missing on some rows: filled in, with a report."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..table.findings import Finding
from ..table.splitting import split_keys

__all__ = ["fill_missing"]

_SHOWN = 5  # examples of each finding
_TREATED = {
    "prompt": "are kept with an empty prompt, which is not compared with other prompts",
    "group": "are a group of their own, with an empty name",
    "split": "are in the split of their prompt, or else in train",
    "fold": "are in the fold of their prompt, or else in one by a hash of prompt or query_id",
}


def fill_missing(
    query: list[str], facts: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[Finding]]:
    """Return the columns without missing values, and a finding for each column that had some.

    A column that is missing on every row is left out.

    Args:
        query: [T] query ids.
        facts: [T] by name (prompt, group, split, fold, features), None if missing. Features have no value to
            fill in, so rows without features must not be among these.
    """
    filled: dict[str, np.ndarray] = {}
    results: list[Finding] = []
    keys = split_keys(facts["prompt"], query)
    for name, values in facts.items():
        missing = np.array([value is None for value in values], dtype=bool)
        if missing.all():
            continue
        filled[name] = values
        if missing.any():
            filled[name] = values.copy()
            filled[name][missing] = _values(name, values, missing, keys)
            rows = np.flatnonzero(missing)
            message = f"{len(rows)} of {len(query)} rows have no {name}; they {_TREATED[name]}"
            examples = tuple(query[int(row)] for row in rows[:_SHOWN])
            results.append(
                Finding(kind="missing_values", count=len(rows), message=message, examples=examples)
            )
    return filled, results


def _values(name: str, values: np.ndarray, missing: np.ndarray, keys: Sequence[str]) -> list[Any]:
    """Return a value for each row where it is missing."""
    if name in ("prompt", "group"):
        return [""] * int(missing.sum())
    known = {keys[int(row)]: values[row] for row in np.flatnonzero(~missing)[::-1]}  # the first one counts
    folds = sorted(set(values[~missing]))
    filled: list[Any] = []
    for row in map(int, np.flatnonzero(missing)):
        key = keys[row]
        other = "train" if name == "split" else folds[_hash(key) % len(folds)]
        filled.append(known.get(key, other))
    return filled


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
