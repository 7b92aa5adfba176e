"""Tables with one row per query: `quality/<expert>`, `cost/<expert>`, and the other columns of a table.

This is the project's own layout in CSV, JSON Lines or Parquet. Experts without `tokens_in/<expert>` have the
counts of a column `tokens_in/<tokenizer>`.

A file without `quality/<expert>` columns may have a column for each model instead, named like the model: the
columns that hold numbers and are not known by another name. Their costs are in the columns `cost/<model>` or
`<model>_cost`, of all models or of none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io.errors import InputError
from .files import Record, distinct_names, records
from .outcome import (
    ALIASES,
    Outcome,
    ReaderOptions,
    feature_row,
    first_of,
    integer,
    number,
    text,
)

__all__ = ["NOTE", "bare_columns", "read"]

NOTE = "experts without prompt token counts have those of a tokenizer's column, such as tokens_in/cl100k"

_KINDS = ("cost", "tokens_in", "tokens_out", "latency_s", "confidence")
_KNOWN = {name for names in ALIASES.values() for name in names}
_OTHERS = {"features", "reference", "label", "index", "cluster_id", "seed", ""}
_FIX = "name the columns quality/<expert> and cost/<expert>, one row per query"


def read(files: Sequence[Path], options: ReaderOptions) -> Iterator[Outcome]:
    """Yield the outcome of each expert in each row.

    Args:
        files: tables.
        options: not used.

    Raises:
        InputError: a file has no column of an expert, or a value is not a number.
    """
    file_names = distinct_names(files, lambda file: file.name)
    for file in files:
        bare: dict[str, _Columns] | None = None
        for index, row in enumerate(records(file)):
            place = f"{file}: row {index}"
            named = [name.removeprefix("quality/") for name in row if name.startswith("quality/")]
            if named:
                columns = {expert: _Columns(f"quality/{expert}", f"cost/{expert}") for expert in named}
            else:
                bare = _bare(file) if bare is None else bare
                columns = bare
            if not columns:
                raise InputError("quality", None, f"{place} has no column of an expert's quality", _FIX)
            yield from _outcomes(row, columns, f"{file_names[file]}:{index}", place)


@dataclass(frozen=True)
class _Columns:
    """The columns of an expert's quality and cost."""

    quality: str
    cost: str


def _outcomes(row: Record, columns: Mapping[str, _Columns], name: str, place: str) -> Iterator[Outcome]:
    shared = _shared_count(row, columns)
    features = feature_row(row.get("features"), place)
    for expert, own in columns.items():
        values = {kind: number(row, f"{kind}/{expert}", place) for kind in _KINDS}
        values["cost"] = number(row, own.cost, place)
        if shared is not None and values["tokens_in"] is None:
            values["tokens_in"] = number(row, shared, place)
        yield Outcome(
            query=text(first_of(row, "query_id")) or name,
            expert=expert,
            quality=number(row, own.quality, place),
            prompt=text(first_of(row, "prompt")),
            group=text(first_of(row, "group")),
            split=text(first_of(row, "split")),
            fold=integer(row, "fold", place),
            features=features,
            answer=text(row.get(f"answer/{expert}")),
            **values,
        )


def _shared_count(row: Record, experts: Mapping[str, Any]) -> str | None:
    """The first column of prompt tokens that does not belong to an expert."""
    counts = (name for name in row if name.startswith("tokens_in/"))
    return next((name for name in counts if name.removeprefix("tokens_in/") not in experts), None)


def bare_columns(row: Record) -> list[str]:
    """Return the columns of a row that can be a model's quality or cost, by their name and value.

    Args:
        row: a row without `quality/<expert>` columns.
    """
    return [name for name, value in row.items() if _may_be_model(name) and _is_number_or_missing(value)]


def _bare(file: Path) -> dict[str, _Columns]:
    """The experts of a file whose columns are named like its models, in the order of its columns.

    Raises:
        InputError: some columns have a cost column and others do not.
    """
    possible: list[str] | None = None
    filled: set[str] = set()
    costs: set[str] = set()
    for row in records(file):
        numbers = bare_columns(row)
        possible = numbers if possible is None else [name for name in possible if name in numbers]
        filled.update(name for name in numbers if text(row[name]) is not None)
        costs.update(name for name in row if name.startswith("cost/"))
    names = [name for name in possible or () if name in filled]
    costs.update(name for name in names if name.endswith("_cost"))
    paired = {
        name: next((cost for cost in (f"cost/{name}", f"{name}_cost") if cost in costs), f"cost/{name}")
        for name in names
    }
    models = {name: cost for name, cost in paired.items() if name not in paired.values()}
    without = [name for name, cost in models.items() if cost not in costs]
    if without and len(without) < len(models):
        problem = f"{file} has no column cost/{without[0]}, and other models have one"
        raise InputError("quality", without[0], problem, f"add it, drop the column, or {_FIX}")
    return {name: _Columns(name, cost) for name, cost in models.items()}


def _may_be_model(name: str) -> bool:
    kind = name.partition("/")[0]
    reserved = name in _KNOWN or name in _OTHERS or name.startswith("Unnamed:")
    return not (reserved or (kind != name and kind in (*_KINDS, "answer", "probabilities")))


def _is_number_or_missing(value: object) -> bool:
    try:
        number({"value": value}, "value", "")
    except InputError:
        return False
    return True
