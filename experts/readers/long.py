"""One row a query and expert, with columns named in any of the usual ways: `query`, `model`, `score`.

Rows of one query are those with the same id, or else with the same group and prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..io.errors import InputError
from .files import Record, records
from .outcome import ALIASES, Outcome, ReaderOptions, first_of, integer, named, text

__all__ = ["read"]


def read(files: Sequence[Path], options: ReaderOptions) -> Iterator[Outcome]:
    """Yield each row.

    Raises:
        InputError: a row lacks an expert, or anything to tell queries apart by.
    """
    for file in files:
        for index, row in enumerate(records(file)):
            yield outcome_of(row, f"{file}: row {index}")


def outcome_of(row: Record, place: str, query: str | None = None) -> Outcome:
    """One row as an outcome; `query` replaces what would tell its query apart."""
    expert = text(first_of(row, "expert"))
    if expert is None:
        fix = f"name the column one of {', '.join(ALIASES['expert'])}"
        raise InputError("expert", None, f"{place} names no expert", fix)
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
        fold=integer(first_of(row, "fold")),
        cost=named(row, "cost", place),
        tokens_in=named(row, "tokens_in", place),
        tokens_out=named(row, "tokens_out", place),
        latency_s=named(row, "latency_s", place),
    )
