"""Outcomes in any order, assembled into arrays of queries by experts."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np

from ..io.errors import InputError
from .outcome import Outcome

__all__ = ["Assembled", "assemble"]

_NUMBERS = ("quality", "cost", "tokens_in", "tokens_out", "latency_s", "confidence")
_FACTS = ("prompt", "group", "split", "fold", "features")


@dataclass(frozen=True, eq=False, kw_only=True)
class Assembled:
    """Outcomes of T queries and N experts, with missing values.

    Attributes:
        experts: names in the order of their first outcome.
        query: [T] str, ids in the order of their first outcome.
        numbers: [T, N] float32 by name (quality, cost, tokens_in, tokens_out, latency_s, confidence), NaN if
            missing.
        facts: [T] by name (prompt, group, split, fold, features), None if missing.
        answers: the answers of each expert that has some, by row.
        repeated: number of outcomes for a pair that has one already; the first counts.
    """

    experts: tuple[str, ...]
    query: list[str]
    numbers: dict[str, np.ndarray]
    facts: dict[str, np.ndarray]
    answers: dict[str, dict[int, str]]
    repeated: int


def assemble(outcomes: Iterable[Outcome]) -> Assembled:
    """Return outcomes as arrays; memory holds the prompts, a few numbers for each pair, and the answers.

    Args:
        outcomes: in any order.

    Raises:
        InputError: a name or a text cannot be written as UTF-8.
    """
    rows: dict[str, int] = {}
    facts: dict[str, list[Any]] = {name: [] for name in _FACTS}
    columns: dict[str, dict[str, array[float]]] = {}
    answers: dict[str, dict[int, str]] = {}
    repeated = 0
    for outcome in outcomes:
        if outcome.query not in rows:
            _check_text("query_id", outcome.query, outcome.query)
        row = rows.setdefault(outcome.query, len(rows))
        for name, values in facts.items():
            value = getattr(outcome, name)
            if row == len(values):
                values.append(value)
            elif values[row] is None:
                values[row] = value
            else:
                continue
            if isinstance(value, str):
                _check_text(name, value, outcome.query)
        own = columns.get(outcome.expert)
        if own is None:
            _check_text("expert", outcome.expert, outcome.query)
            own = columns[outcome.expert] = {kind: array("f") for kind in (*_NUMBERS, "present")}
        present = own["present"]
        if row < len(present) and present[row] == 1.0:
            repeated += 1
            continue
        for kind, column in own.items():
            if len(column) <= row:
                column.extend([nan] * (row + 1 - len(column)))
            value = 1.0 if kind == "present" else getattr(outcome, kind)
            if value is not None:
                column[row] = value
        if outcome.answer is not None:
            _check_text("answer", outcome.answer, outcome.query)
            answers.setdefault(outcome.expert, {})[row] = outcome.answer
    return Assembled(
        experts=tuple(columns),
        query=list(rows),
        numbers={kind: _matrix([own[kind] for own in columns.values()], len(rows)) for kind in _NUMBERS},
        facts={name: _objects(values) for name, values in facts.items()},
        answers=answers,
        repeated=repeated,
    )


def _check_text(field: str, text: str, query: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"query {query!r} holds half a surrogate pair, which is not text"
        raise InputError(field, text[:60], problem, "save the results as UTF-8 again") from error


def _matrix(columns: list[array[float]], rows: int) -> np.ndarray:
    matrix = np.full((rows, len(columns)), np.nan, dtype=np.float32)
    for expert, column in enumerate(columns):
        matrix[: len(column), expert] = np.frombuffer(column, dtype=np.float32)
    return matrix


def _objects(values: list[Any]) -> np.ndarray:
    objects = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):  # one by one, because numpy would unpack lists
        objects[row] = value
    return objects
