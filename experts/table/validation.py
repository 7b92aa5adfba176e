"""Validation of outcome tables; each error names the column, the row and the fix."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ..io.errors import InputError
from .mapped_column import released
from .missing_outcomes import missing_count
from .splitting import LEAKAGE, SPLITS, find_leak

__all__ = ["COST_UNITS", "TableColumns", "check_leaks", "check_table"]

COST_UNITS = ("usd", "flops", "seconds", "unknown")
_CHUNK = 65_536  # rows checked at a time, so that memory-mapped features are never loaded as a whole
_SUM_TOLERANCE = 1e-3  # a float32 softmax over a thousand classes is well within it


class TableColumns(Protocol):
    """The fields that are checked by type; shapes and dtypes are those of `OutcomeTable`."""

    @property
    def experts(self) -> tuple[str, ...]: ...
    @property
    def query_id(self) -> np.ndarray: ...
    @property
    def features(self) -> np.ndarray | None: ...
    @property
    def quality(self) -> np.ndarray: ...
    @property
    def cost(self) -> np.ndarray: ...
    @property
    def split(self) -> np.ndarray: ...
    @property
    def cost_unit(self) -> str: ...
    @property
    def prompt(self) -> np.ndarray | None: ...
    @property
    def probabilities(self) -> np.ndarray | None: ...
    @property
    def label(self) -> np.ndarray | None: ...
    @property
    def extra(self) -> pa.Table | None: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


def check_table(table: TableColumns) -> None:
    """Check names, shapes and values of a table.

    Quality and cost may be missing together: that expert did not answer that query.

    Args:
        table: the fields of an OutcomeTable.

    Raises:
        InputError: names the column, the row and the fix.
    """
    _check_names(table)
    _check_shapes(table)
    _check_rows(table)
    sparse = missing_count(table.quality) > 0
    if sparse:
        _check_missing(table)
    fix = "scale quality into [0, 1] or drop the row"
    _check_matrix(table, "quality", table.quality, 0.0, 1.0, fix, missing_allowed=sparse)
    fix = "give a cost >= 0 or drop the row"
    _check_matrix(table, "cost", table.cost, 0.0, np.inf, fix, missing_allowed=sparse)
    for name, lowest in (
        ("confidence", -np.inf),
        ("tokens_in", 0.0),
        ("tokens_out", 0.0),
        ("latency_s", 0.0),
    ):
        values = getattr(table, name)
        if values is not None:
            fix = "leave unknown entries empty"
            _check_matrix(table, name, values, lowest, np.inf, fix, missing_allowed=True)
    if table.features is not None:
        _check_features(table, table.features)
    if table.probabilities is not None and table.label is not None:
        _check_probabilities(table, table.probabilities, table.label)


def check_leaks(table: TableColumns) -> None:
    """Check that no prompt occurs in two splits or two folds, unless a note of the table allows leakage.

    Args:
        table: the fields of an OutcomeTable.

    Raises:
        InputError: names the prompt and both rows.
    """
    prompts = table.prompt
    if prompts is None or any(note.startswith(LEAKAGE) for note in table.notes):
        return
    for name in ("split", "fold"):
        parts: np.ndarray | None = getattr(table, name)
        leak = None if parts is None else find_leak(prompts, parts)
        if parts is not None and leak is not None:
            first, second = leak
            prompt = str(prompts[first])
            raise InputError(
                "prompt",
                prompt if len(prompt) <= 60 else prompt[:57] + "...",
                f"the same prompt is in {name} {parts[first]} (row {first}) and {name} {parts[second]} "
                f"(row {second})",
                f"put both rows in one {name}, drop one, or pass --allow-leakage",
            )


def _check_names(table: TableColumns) -> None:
    experts = table.experts
    if len(experts) < 2:
        raise InputError("experts", list(experts), "routing needs a choice", "give 2 or more experts")
    if len(set(experts)) < len(experts):
        twice = next(name for name in experts if experts.count(name) > 1)
        raise InputError("experts", twice, "occurs twice", "give each expert its own name")
    if not all(experts):
        raise InputError("experts", "", "an expert has no name", "name every expert")
    if table.cost_unit not in COST_UNITS:
        raise InputError("cost_unit", table.cost_unit, "unknown", f"use one of {', '.join(COST_UNITS)}")


def _check_shapes(table: TableColumns) -> None:
    rows, experts = len(table.query_id), len(table.experts)
    if rows == 0:
        raise InputError("query_id", 0, "the table has no rows", "collect at least one query")
    wanted: dict[str, tuple[int, ...]] = {
        "split": (rows,),
        "prompt": (rows,),
        "group": (rows,),
        "fold": (rows,),
        "label": (rows,),
        "quality": (rows, experts),
        "cost": (rows, experts),
        "confidence": (rows, experts),
        "tokens_in": (rows, experts),
        "tokens_out": (rows, experts),
        "latency_s": (rows, experts),
        "features": (rows, -1),
        "probabilities": (rows, experts, -1),
    }
    for name, shape in wanted.items():
        value = getattr(table, name)
        if value is not None and not _fits(value.shape, shape):
            legend = ", ".join("any" if size < 0 else str(size) for size in shape)
            raise InputError(name, value.shape, f"should have shape ({legend})", "one row a query")
    if table.extra is not None and table.extra.num_rows != rows:
        raise InputError("extra", table.extra.num_rows, f"should have {rows} rows", "one row a query")
    if (table.probabilities is None) != (table.label is None):
        missing = "label" if table.label is None else "probabilities"
        raise InputError(missing, None, "probabilities and label go together", f"add {missing} or drop both")


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        have == want or (want < 0 and have > 0) for have, want in zip(shape, wanted, strict=True)
    )


def _check_rows(table: TableColumns) -> None:
    # Hashes first: a dictionary of ten million ids takes more than a gigabyte.
    hashes = np.fromiter(map(hash, table.query_id), dtype=np.int64, count=len(table.query_id))
    ordered = np.sort(hashes)
    shared = ordered[1:][ordered[1:] == ordered[:-1]]
    first: dict[str, int] = {}
    for row in np.flatnonzero(np.isin(hashes, shared)) if len(shared) else ():
        name = table.query_id[row]
        earlier = first.setdefault(name, int(row))
        if earlier != row:
            raise InputError("query_id", name, f"rows {earlier} and {row} share it", "make every id distinct")
    wrong = np.flatnonzero(~np.logical_or.reduce([table.split == name for name in SPLITS]))  # isin sorts
    if len(wrong):
        row = int(wrong[0])
        problem = f"row {row} is unknown"
        raise InputError("split", str(table.split[row]), problem, f"use {', '.join(SPLITS)}")


def _check_missing(table: TableColumns) -> None:
    """Check that missing outcomes have neither quality nor cost, and leave no row and no expert empty."""
    answered = np.zeros(len(table.experts), dtype=bool)
    for start in range(0, len(table.quality), _CHUNK):
        rows = slice(start, start + _CHUNK)
        lacking, unpriced = np.isnan(table.quality[rows]), np.isnan(table.cost[rows])
        wrong = np.argwhere(lacking != unpriced)
        if len(wrong):
            row, expert = int(wrong[0][0]), int(wrong[0][1])
            name, other = ("quality", "cost") if lacking[row, expert] else ("cost", "quality")
            problem = f"{_place(table, row + start)} is missing, and its {other} is not"
            fix = "fill it in, or leave both empty where the expert did not answer"
            raise InputError(f"{name}/{table.experts[expert]}", float("nan"), problem, fix)
        empty = np.flatnonzero(lacking.all(axis=1))
        if len(empty):
            problem = f"{_place(table, int(empty[0]) + start)} is missing, like that of every other expert"
            raise InputError(f"quality/{table.experts[0]}", float("nan"), problem, "drop the row")
        answered |= ~lacking.all(axis=0)
    if not answered.all():
        name = table.experts[int(np.flatnonzero(~answered)[0])]
        problem = "is missing on every row"
        raise InputError(f"quality/{name}", float("nan"), problem, "leave the expert out")
    if table.probabilities is not None:
        problem = f"{missing_count(table.quality)} outcomes are missing"
        raise InputError("probabilities", None, problem, "leave probabilities and label out")


def _check_matrix(
    table: TableColumns,
    column: str,
    values: np.ndarray,
    lowest: float,
    highest: float,
    fix: str,
    missing_allowed: bool = False,
) -> None:
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        missing = np.isnan(chunk)
        good = ~np.isinf(chunk) & (chunk >= lowest) & (chunk <= highest)
        if missing_allowed:
            good |= missing
        wrong = np.argwhere(~good)
        if len(wrong):
            row, expert = (int(index) for index in wrong[0])
            upper = f"{highest:g}]" if np.isfinite(highest) else "inf)"
            lower = f"[{lowest:g}" if np.isfinite(lowest) else "(-inf"
            problem = "is missing" if missing[row, expert] else f"is outside {lower}, {upper}"
            field = f"{column}/{table.experts[expert]}"
            place = _place(table, row + start)
            raise InputError(field, float(chunk[row, expert]), f"{place} {problem}", fix)
    released(values)


def _check_features(table: TableColumns, features: np.ndarray) -> None:
    for start in range(0, len(features), _CHUNK):
        wrong = np.argwhere(~np.isfinite(features[start : start + _CHUNK]))
        if len(wrong):
            row, column = int(wrong[0][0]) + start, int(wrong[0][1])
            value = float(features[row, column])
            problem = f"{_place(table, row)} is not finite"
            raise InputError(f"features[{column}]", value, problem, "fill it in or drop the row")
    released(features)


def _check_probabilities(table: TableColumns, probabilities: np.ndarray, label: np.ndarray) -> None:
    classes = probabilities.shape[2]
    fix = "give each expert's softmax"
    for start in range(0, len(probabilities), _CHUNK):
        chunk: Any = probabilities[start : start + _CHUNK]
        total = chunk.sum(axis=2, dtype=np.float64)
        # NaN fails every comparison, so the condition says what is valid, not what is invalid.
        good = (chunk >= 0).all(axis=2) & (np.abs(total - 1) <= _SUM_TOLERANCE)
        wrong = np.argwhere(~good)
        if len(wrong):
            row, expert = int(wrong[0][0]), int(wrong[0][1])
            problem = f"{_place(table, row + start)} is not a distribution"
            field = f"probabilities/{table.experts[expert]}"
            raise InputError(field, chunk[row, expert].tolist(), problem, fix)
    wrong = np.flatnonzero((label < 0) | (label >= classes))
    if len(wrong):
        row = int(wrong[0])
        problem = f"{_place(table, row)} is outside 0..{classes - 1}"
        raise InputError("label", int(label[row]), problem, "number the classes from 0")


def _place(table: TableColumns, row: int) -> str:
    return f"row {row} (query_id {table.query_id[row]!r})"
