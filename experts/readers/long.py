"""Tables with one row per query and expert, under common column names such as `query`, `model`, `score`.

Rows with the same id belong to one query; without ids, rows with the same group and prompt do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..io.errors import InputError
from .files import Record, records
from .outcome import ALIASES, Outcome, ReaderOptions, first_of, integer, named, text

__all__ = ["read"]


def read(files: Sequence[Path], options: ReaderOptions) -> Iterator[Outcome]:
    """Yield the outcome of each row.

    Args:
        files: tables.
        options: not used.

    Raises:
        InputError: a row has no expert, or neither an id nor a prompt.
    """
    for file in files:
        for index, row in enumerate(records(file)):
            yield outcome_of(row, f"{file}: row {index}")


def outcome_of(row: Record, place: str, query: str | None = None) -> Outcome:
    """Return a row's outcome.

    Args:
        row: the row.
        place: the file and row number, for the error.
        query: the query's id; None: the id in the row, or its group and prompt.

    Raises:
        InputError: the row has no expert, or neither an id nor a prompt.
    """
    expert = text(first_of(row, "expert"))
    if expert is None:
        fix = f"name the column one of {', '.join(ALIASES['expert'])}"
        raise InputError("expert", None, f"{place} has no expert", fix)
    prompt, group = text(first_of(row, "prompt")), text(first_of(row, "group"))
    query = query or text(first_of(row, "query_id"))
    if query is None and prompt is None:
        raise InputError("query_id", None, f"{place} has neither an id nor a prompt", "add a query_id column")
    return Outcome(
        query=f"{group or ''}\0{prompt}" if query is None else query,
        expert=expert,
        quality=named(row, "quality", place),
        prompt=prompt,
        group=group,
        split=text(first_of(row, "split")),
        fold=integer(row, "fold", place),
        cost=named(row, "cost", place),
        tokens_in=named(row, "tokens_in", place),
        tokens_out=named(row, "tokens_out", place),
        latency_s=named(row, "latency_s", place),
        confidence=named(row, "confidence", place),
    )
