"""Prompts and reference answers from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..io.errors import InputError
from ..readers import records
from ..readers.outcome import text

__all__ = ["Questions", "read_questions"]

_COLUMNS = ("query_id", "prompt", "reference", "group", "split")


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Questions:
    """T prompts.

    Args:
        query_id: [T] str, distinct.
        prompt: [T] str, not empty.
        reference: [T] the correct answer, str or None each.
        group: [T] str, the task or subject; None if the file has none.
        split: [T] str, train, validation or test; None if the file has none.
    """

    query_id: np.ndarray
    prompt: np.ndarray
    reference: np.ndarray
    group: np.ndarray | None = None
    split: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.query_id)


def read_questions(path: Path | str, limit: int | None = None) -> Questions:
    """Read prompts from Parquet, CSV or JSON Lines.

    Args:
        path: a file with the column `prompt`, and optionally `reference`, `group`, `split` and `query_id`
            (by default `q0`, `q1`, ...).
        limit: maximum number of rows; None: all.

    Raises:
        InputError: names the file, column, row and fix.
    """
    path = Path(path)
    columns: dict[str, list[str | None]] = {name: [] for name in _COLUMNS}
    for index, row in enumerate(records(path, "prompts")):
        if limit is not None and index >= limit:
            break
        for name in _COLUMNS:
            value = text(row.get(name))
            if value is not None and not _is_text(value):
                problem = f"{path}: row {index} holds half a surrogate pair, which is not text"
                raise InputError(name, value[:60], problem, "save the prompts as UTF-8 again")
            columns[name].append(value)
    prompts = columns["prompt"]
    if not prompts:
        raise InputError("prompts", str(path), "has no rows", "give at least one prompt")
    ids = columns["query_id"]
    if all(name is None for name in ids):
        columns["query_id"] = [f"q{row}" for row in range(len(prompts))]
    for name in ("prompt", "query_id", "group", "split"):
        missing = [row for row, value in enumerate(columns[name]) if value is None]
        if missing and (name in ("prompt", "query_id") or len(missing) < len(prompts)):
            raise InputError(name, None, f"{path}: row {missing[0]} is missing", "fill it in or drop the row")
    first: dict[str | None, int] = {}
    for row, name in enumerate(columns["query_id"]):
        if first.setdefault(name, row) != row:
            problem = f"{path}: rows {first[name]} and {row} have the same"
            raise InputError("query_id", name, problem, "give each row its own id")
    arrays = {name: np.array(values, dtype=object) for name, values in columns.items()}
    for name in ("group", "split"):
        if columns[name][0] is None:
            del arrays[name]
    return Questions(**arrays)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
