"""The outcome of one expert on one query, as the readers of result files return it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..io.errors import InputError
from .files import Record

__all__ = [
    "ALIASES",
    "CHARACTERS_A_TOKEN",
    "Outcome",
    "Reader",
    "ReaderOptions",
    "estimated_tokens",
    "feature_row",
    "first_of",
    "integer",
    "named",
    "number",
    "text",
]

CHARACTERS_A_TOKEN = 4.0  # of English text; the estimate for sources without token counts


class Outcome(NamedTuple):
    """The outcome of one expert on one query; None for what the source does not state.

    Attributes:
        query: the query's id.
        expert: the expert's name.
        quality: on the source's scale.
        prompt: the query's text.
        group: the query's task, subject or dataset.
        split: train, validation or test.
        fold: of cross-validation.
        cost: in the table's unit.
        tokens_in: prompt tokens, counted or estimated.
        tokens_out: answer tokens, counted or estimated.
        latency_s: seconds.
        features: [D] float32, the router's inputs.
        confidence: stated by the expert about its answer.
        answer: the expert's answer.
    """

    query: str
    expert: str
    quality: float | None
    prompt: str | None = None
    group: str | None = None
    split: str | None = None
    fold: int | None = None
    cost: float | None = None
    tokens_in: float | None = None
    tokens_out: float | None = None
    latency_s: float | None = None
    features: np.ndarray | None = None
    confidence: float | None = None
    answer: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """Options of a reader.

    Attributes:
        metric: the score to use if a file has several; None: the first known one. Readers without `metrics`
            do not use it.
    """

    metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One format of results.

    Attributes:
        read: yields the outcomes of files.
        about: a one-line description.
        notes: for the table, if costs are computed from prices.
        cost_unit: of the costs in the files.
        metrics: names of scores that the format is known to have; empty if a row has one score.
    """

    read: Callable[[Sequence[Path], ReaderOptions], Iterator[Outcome]]
    about: str
    notes: tuple[str, ...] = ()
    cost_unit: str = "unknown"
    metrics: tuple[str, ...] = ()


# Column names in other projects; the first that a row has is used.
ALIASES: dict[str, tuple[str, ...]] = {
    "query_id": ("query_id", "sample_id", "question_id", "id", "doc_id"),
    "prompt": ("prompt", "query", "question", "input", "instruction"),
    "group": ("group", "eval_name", "task_name", "task", "category", "subject", "dataset"),
    "split": ("split",),
    "fold": ("fold",),
    "expert": ("expert", "model", "model_name", "model_id"),
    "quality": ("quality", "performance", "score", "correct", "accuracy", "acc", "exact_match"),
    "cost": ("cost", "total_cost", "cost_usd"),
    "tokens_in": ("tokens_in", "input_tokens", "prompt_tokens"),
    "tokens_out": ("tokens_out", "output_tokens", "completion_tokens"),
    "latency_s": ("latency_s", "response_time", "latency"),
    "confidence": ("confidence",),
}

_TRUTH = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
_SPLITS = {"training": "train", "dev": "validation", "valid": "validation", "val": "validation"}


def first_of(row: Record, field: str) -> Any:
    """Return the value of a field under the first of its names that the row has, or None.

    Args:
        row: the row.
        field: a key of `ALIASES`.
    """
    for name in ALIASES[field]:
        if name in row:
            return _split(row[name]) if field == "split" else row[name]
    return None


def number(row: Record, name: str, place: str) -> float | None:
    """Return a value as a number, 1 or 0 for a truth value, or None if it is empty.

    Args:
        row: the row.
        name: its column.
        place: the file and row number, for the error.

    Raises:
        InputError: the value is not a number; names the column and the place.
    """
    value = row.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        value = _TRUTH.get(value.strip().lower(), value)
    try:
        parsed = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(name, value, f"{place}: is not a number", "correct it, or leave it empty") from error
    return None if math.isnan(parsed) else parsed


def named(row: Record, field: str, place: str) -> float | None:
    """Return the number of a field under the first of its names that the row has, or None.

    Args:
        row: the row.
        field: a key of `ALIASES`.
        place: the file and row number, for the error.

    Raises:
        InputError: the value is not a number; names the column and the place.
    """
    for name in ALIASES[field]:
        if name in row:
            return number(row, name, place)
    return None


def estimated_tokens(value: Any) -> float | None:
    """Return the estimated tokens of a prompt or an answer, at least 1, or None for None."""
    return None if value is None else max(1.0, len(str(value)) / CHARACTERS_A_TOKEN)


def text(value: Any) -> str | None:
    """Return a value as text, or None if it is missing: empty, white space, or the NaN of a data frame."""
    if value is None or value != value:
        return None
    shown = str(value)
    return shown if shown.strip() else None


def integer(row: Record, name: str, place: str) -> int | None:
    """Return a value as an integer, or None if it is missing.

    Args:
        row: the row.
        name: its column.
        place: the file and row number, for the error.

    Raises:
        InputError: the value is not a whole number; names the column and the place.
    """
    parsed = number(row, name, place)
    if parsed is None:
        return None
    if not parsed.is_integer() or abs(parsed) >= 2**53:
        raise InputError(name, row[name], f"{place}: is not a whole number", "correct it, or leave it empty")
    return int(parsed)


def feature_row(value: Any, place: str) -> np.ndarray | None:
    """Return the features of a row, or None if they are missing.

    Args:
        value: a list of numbers, or its JSON.
        place: the file and row number, for the error.

    Raises:
        InputError: the value is not a list of finite numbers; names the place.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    try:
        listed: Any = json.loads(value) if isinstance(value, str) else value
        # Of numbers only: NumPy would also convert a list of texts.
        row = np.array(listed, dtype=np.float64) if _are_numbers(listed) else None
    except (ValueError, OverflowError, RecursionError):
        row = None
    with np.errstate(over="ignore"):
        short = None if row is None else row.astype(np.float32)
    if short is None or not len(short) or not np.isfinite(short).all():
        fix = "give each row one list of finite numbers, or leave it empty"
        raise InputError("features", value, f"{place}: is not a list of finite numbers", fix)
    return short


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in value
    )


def _split(value: Any) -> Any:
    name = text(value)
    return None if name is None else _SPLITS.get(name.strip().lower(), name.strip().lower())
