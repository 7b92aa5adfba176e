"""What one expert did on one query, as readers of result files tell it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..io.errors import InputError
from .files import Record

__all__ = [
    "ALIASES",
    "CHARACTERS_A_TOKEN",
    "Outcome",
    "Reader",
    "ReaderOptions",
    "estimated_tokens",
    "first_of",
    "integer",
    "named",
    "number",
    "text",
]

CHARACTERS_A_TOKEN = 4.0  # of English under today's tokenizers; what a source without counts is priced by


class Outcome(NamedTuple):
    """One expert on one query; None where the source does not say.

    Attributes:
        query: the same for all experts on the query, and for no other query.
        expert: its name.
        quality: on the source's own scale.
        cost: in the table's unit.
        prompt, group, split, fold: of the query.
        tokens_in, tokens_out: counted, or estimated where the reader says so.
        latency_s: seconds.
        features: of the query, where the source has what a router sees.
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
    features: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """What a reader may be told.

    Attributes:
        metric: the score to take where a file has several (lm-evaluation-harness); None: the first it knows.
    """

    metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One format of results.

    Attributes:
        read: files to outcomes, streaming.
        about: one line.
        notes: what must be known of this format where its costs come from prices.
        cost_unit: of the costs it states.
    """

    read: Callable[[Sequence[Path], ReaderOptions], Iterator[Outcome]]
    about: str
    notes: tuple[str, ...] = ()
    cost_unit: str = "unknown"


# What other projects call our columns; the first that a row has is taken.
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
}

_TRUTH = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
_SPLITS = {"training": "train", "dev": "validation", "valid": "validation", "val": "validation"}


def first_of(row: Record, field: str) -> Any:
    """The value of our field under whichever of its names the row has, or None."""
    for name in ALIASES[field]:
        if name in row:
            return _split(row[name]) if field == "split" else row[name]
    return None


def number(row: Record, name: str, place: str) -> float | None:
    """A value as a number; None where it is empty; truth values count 1 and 0.

    Raises:
        InputError: it is something else; names the column and the place.
    """
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = _TRUTH.get(value.strip().lower(), value)
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(name, value, f"{place}: is no number", "correct it, or leave it empty") from error
    return None if math.isnan(found) else found


def named(row: Record, field: str, place: str) -> float | None:
    """`number` of our field under whichever of its names the row has."""
    for name in ALIASES[field]:
        if name in row:
            return number(row, name, place)
    return None


def estimated_tokens(answer: Any) -> float | None:
    """Tokens of a text by its length, at least one; None where there is no text."""
    return None if answer is None else max(1.0, len(str(answer)) / CHARACTERS_A_TOKEN)


def text(value: Any) -> str | None:
    """A value as text; None where it is empty."""
    return None if value is None or value == "" else str(value)


def integer(value: Any) -> int | None:
    """A value as a whole number; None where it is empty or none."""
    try:
        return None if value is None or value == "" else int(value)
    except (TypeError, ValueError):
        return None


def _split(value: Any) -> Any:
    return _SPLITS.get(str(value).strip().lower(), str(value).strip().lower()) if value else None
