"""Tables with one row per query: `quality/<expert>`, `cost/<expert>`, and the other columns of a table.

This is the project's own layout in CSV, JSON Lines or Parquet. Experts without `tokens_in/<expert>` have the
counts of a column `tokens_in/<tokenizer>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..io.errors import InputError
from .files import Record, records
from .outcome import Outcome, ReaderOptions, first_of, integer, number, text

__all__ = ["NOTE", "read"]

NOTE = "experts without prompt token counts have those of a tokenizer's column, such as tokens_in/cl100k"

_KINDS = ("cost", "tokens_in", "tokens_out", "latency_s")


def read(files: Sequence[Path], options: ReaderOptions) -> Iterator[Outcome]:
    """Yield the outcome of each expert in each row.

    Args:
        files: tables.
        options: not used.

    Raises:
        InputError: a file has no `quality/<expert>` column, or a value is not a number.
    """
    for file in files:
        for index, row in enumerate(records(file)):
            experts = [name.removeprefix("quality/") for name in row if name.startswith("quality/")]
            if not experts:
                fix = "add quality/<expert> columns, or name another --format"
                raise InputError("quality", None, f"{file}: row {index} has no such column", fix)
            place = f"{file}: row {index}"
            query = text(first_of(row, "query_id"))
            shared = _shared_count(row, experts)
            for expert in experts:
                values = {kind: number(row, f"{kind}/{expert}", place) for kind in _KINDS}
                if shared is not None and values["tokens_in"] is None:
                    values["tokens_in"] = number(row, shared, place)
                yield Outcome(
                    query=f"{file.name}:{index}" if query is None else query,
                    expert=expert,
                    quality=number(row, f"quality/{expert}", place),
                    prompt=text(first_of(row, "prompt")),
                    group=text(first_of(row, "group")),
                    split=text(first_of(row, "split")),
                    fold=integer(first_of(row, "fold")),
                    features=row.get("features"),
                    **values,
                )


def _shared_count(row: Record, experts: Sequence[str]) -> str | None:
    """The first column of prompt tokens that does not belong to an expert."""
    counts = (name for name in row if name.startswith("tokens_in/"))
    return next((name for name in counts if name.removeprefix("tokens_in/") not in experts), None)
