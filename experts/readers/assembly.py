"""Outcomes that come one at a time, in any order, put together query by query and expert by expert."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np

from .outcome import Outcome

__all__ = ["Assembled", "assemble"]

_NUMBERS = ("quality", "cost", "tokens_in", "tokens_out", "latency_s")
_FACTS = ("prompt", "group", "split", "fold", "features")


@dataclass(frozen=True, eq=False, kw_only=True)
class Assembled:
    """T queries and N experts, with holes.

    Attributes:
        experts: names, in the order they were met.
        query: [T] str.
        numbers: [T, N] float32 by kind (quality, cost, tokens_in, tokens_out, latency_s), NaN where not told.
        facts: [T] by name (prompt, group, split, fold, features), None where not told.
        repeated: outcomes of an expert on a query that it had one of already; the first counts.
    """

    experts: tuple[str, ...]
    query: list[str]
    numbers: dict[str, np.ndarray]
    facts: dict[str, np.ndarray]
    repeated: int


def assemble(outcomes: Iterable[Outcome]) -> Assembled:
    """Put outcomes together. Held are prompts and a few numbers a pair; answers never come this far.

    Args:
        outcomes: in any order.
    """
    rows: dict[str, int] = {}
    facts: dict[str, list[Any]] = {name: [] for name in _FACTS}
    columns: dict[str, dict[str, array[float]]] = {}
    repeated = 0
    for outcome in outcomes:
        row = rows.setdefault(outcome.query, len(rows))
        for name, values in facts.items():
            told = getattr(outcome, name)
            if row == len(values):
                values.append(told)
            elif values[row] is None:
                values[row] = told
        own = columns.get(outcome.expert)
        if own is None:
            own = columns[outcome.expert] = {kind: array("f") for kind in (*_NUMBERS, "seen")}
        seen = own["seen"]
        if row < len(seen) and seen[row] == 1.0:
            repeated += 1
            continue
        for kind, column in own.items():
            if len(column) <= row:
                column.extend([nan] * (row + 1 - len(column)))
            told = 1.0 if kind == "seen" else getattr(outcome, kind)
            if told is not None:
                column[row] = told
    return Assembled(
        experts=tuple(columns),
        query=list(rows),
        numbers={kind: _matrix([own[kind] for own in columns.values()], len(rows)) for kind in _NUMBERS},
        facts={name: _objects(values) for name, values in facts.items()},
        repeated=repeated,
    )


def _matrix(columns: list[array[float]], rows: int) -> np.ndarray:
    matrix = np.full((rows, len(columns)), np.nan, dtype=np.float32)
    for expert, column in enumerate(columns):
        matrix[: len(column), expert] = np.frombuffer(column, dtype=np.float32)
    return matrix


def _objects(values: list[Any]) -> np.ndarray:
    found = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):  # one by one, or numpy would look into lists
        found[row] = value
    return found
