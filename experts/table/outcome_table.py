"""The outcome of every expert on every query; experts are frozen, so it is measured once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..io.errors import InputError
from .mapped_column import rows_of
from .missing_outcomes import missing_count
from .parquet import SCHEMA_VERSION, read_columns, write_table
from .splitting import SPLITS, allow_leaks, complete_split
from .validation import check_leaks, check_table

__all__ = ["SCHEMA_VERSION", "SPLITS", "OutcomeTable"]

_FLOATS = (
    "features",
    "quality",
    "cost",
    "confidence",
    "tokens_in",
    "tokens_out",
    "latency_s",
    "probabilities",
)
_INTEGERS = ("fold", "label")
_TEXTS = ("query_id", "prompt", "group", "split")
_ROWWISE = (*_TEXTS, *_INTEGERS, *_FLOATS)


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class OutcomeTable:
    """T queries, N experts, and the outcome of every pair.

    Arrays are converted to the types below and checked when the table is created. Do not write to them.

    Args:
        experts: N >= 2 distinct names.
        query_id: [T] str, distinct.
        features: [T, D] float32, finite, possibly memory-mapped; None if the table has none.
        quality: [T, N] float32 in [0, 1]; NaN where that expert did not answer that query (a sparse table).
        cost: [T, N] float32 >= 0, in `cost_unit`; NaN where quality is, and only there.
        split: [T] str, each one of `SPLITS`. `tuning` rows select hyperparameters and methods; problems
            take half of the validation rows if a table has none.
        cost_unit: "usd", "flops", "seconds" or "unknown".
        source: a description of where the outcomes come from.
        prompt: [T] str, the text of each query.
        group: [T] str, the task, subject or condition.
        fold: [T] int64, for cross-validation.
        confidence: [T, N] float32, stated by each expert about its answer, NaN if unknown.
        tokens_in: [T, N] float32 >= 0, prompt tokens by each expert's tokenizer, NaN if unknown.
        tokens_out: [T, N] float32 >= 0, answer tokens, NaN if unknown.
        latency_s: [T, N] float32 >= 0, seconds, NaN if unknown.
        probabilities: [T, N, C] float32, the class distribution of each expert; rows sum to 1.
        label: [T] int64, the correct class; required with `probabilities`, and only then.
        extra: T rows of unknown columns, which are kept and ignored.
        notes: sentences that every output made from this table repeats.

    Raises:
        InputError: names the column, the row and the fix.
    """

    experts: tuple[str, ...]
    query_id: np.ndarray
    features: np.ndarray | None
    quality: np.ndarray
    cost: np.ndarray
    split: np.ndarray
    cost_unit: str = "unknown"
    source: str = ""
    prompt: np.ndarray | None = None
    group: np.ndarray | None = None
    fold: np.ndarray | None = None
    confidence: np.ndarray | None = None
    tokens_in: np.ndarray | None = None
    tokens_out: np.ndarray | None = None
    latency_s: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    label: np.ndarray | None = None
    extra: pa.Table | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "experts", tuple(self.experts))
        object.__setattr__(self, "notes", tuple(self.notes))
        for names, convert in ((_FLOATS, _as_float32), (_INTEGERS, _as_int64), (_TEXTS, _as_text)):
            for name in names:
                value = getattr(self, name)
                if value is not None:
                    object.__setattr__(self, name, convert(name, value))
        check_table(self)
        check_leaks(self)

    def __len__(self) -> int:
        return len(self.query_id)

    @property
    def missing(self) -> int:
        """Number of missing outcomes: pairs of query and expert; above 0 for a sparse table."""
        return missing_count(self.quality)

    @property
    def answered(self) -> np.ndarray:
        """Which outcomes are known, [T, N] bool."""
        return ~np.isnan(self.quality)

    def __repr__(self) -> str:
        """One line without the arrays, for error messages and the interpreter."""
        return f"OutcomeTable({len(self)} queries, {len(self.experts)} experts, source={self.source!r})"

    def part(self, split: str) -> OutcomeTable:
        """Return the rows of one split, in table order.

        Args:
            split: train, validation, tuning or test.

        Raises:
            InputError: the split is unknown or has no rows.
        """
        if split not in SPLITS:
            raise InputError("split", split, "unknown", f"use one of {', '.join(SPLITS)}")
        return self.take(np.flatnonzero(self.split == split))

    def take(self, rows: np.ndarray) -> OutcomeTable:
        """Return the table of some rows, in the given order.

        Args:
            rows: [M] integer row numbers, with repeats allowed (bootstrap), or a [T] boolean mask.

        Raises:
            InputError: no rows are left.
        """
        rows = np.asarray(rows)
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        if len(rows) == 0:
            present = ", ".join(name for name in SPLITS if (self.split == name).any())
            raise InputError("rows", 0, "no rows are left", f"this table has rows in: {present}")
        index = _as_slice(rows)
        # Rows of a valid table are valid, so a shallow copy skips the checks, and rows may repeat.
        part = copy.copy(self)
        for name in _ROWWISE:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(part, name, rows_of(value, index))
        if self.extra is not None:
            object.__setattr__(part, "extra", self.extra.take(pa.array(rows)))
        return part

    def with_split(self, split: np.ndarray) -> OutcomeTable:
        """Return the same rows in other splits.

        Args:
            split: [T] str, each one of `SPLITS`. Rows with the same prompt must be in one split.

        Raises:
            InputError: a split is unknown, or there is not one for each row.
        """
        split = _as_text("split", split)
        if len(split) != len(self) or not np.isin(split, SPLITS).all():
            raise InputError(
                "split", split.shape, f"must be {len(self)} of {', '.join(SPLITS)}", "correct it"
            )
        part = copy.copy(self)
        object.__setattr__(part, "split", split)
        return part

    def with_estimates(self, quality: np.ndarray, cost: np.ndarray) -> OutcomeTable:
        """Return the same queries with estimated quality and cost, and without the experts' other outcomes.

        Unbiased estimates can be outside the range of quality and cost; ranges are not checked.

        Args:
            quality: [T, N] float.
            cost: [T, N] float, in `cost_unit`.
        """
        part = copy.copy(self)
        for name in ("confidence", "tokens_in", "tokens_out", "latency_s", "probabilities", "label", "extra"):
            object.__setattr__(part, name, None)
        object.__setattr__(part, "quality", _as_float32("quality", quality))
        object.__setattr__(part, "cost", _as_float32("cost", cost))
        return part

    def with_features(self, features: np.ndarray) -> OutcomeTable:
        """Return the same queries with other features; estimated outcomes stay, whatever their range.

        Args:
            features: [T, D] float.

        Raises:
            InputError: they are not one row of numbers for each query.
        """
        features = _as_float32("features", features)
        if features.ndim != 2 or len(features) != len(self):
            shape = list(features.shape)
            raise InputError("features", shape, f"must be [{len(self)}, D]", "give one row for each query")
        part = copy.copy(self)
        object.__setattr__(part, "features", features)
        return part

    def with_latencies(self, latency_s: np.ndarray, notes: Sequence[str] = ()) -> OutcomeTable:
        """Return the same queries with other latencies; estimated outcomes stay, whatever their range.

        Args:
            latency_s: [T, N] float, seconds.
            notes: sentences to add to the table's notes.

        Raises:
            InputError: there is not one latency for each query and expert.
        """
        latency_s = _as_float32("latency_s", latency_s)
        if latency_s.shape != self.quality.shape:
            shape, wanted = list(latency_s.shape), list(self.quality.shape)
            raise InputError("latency_s", shape, f"must be {wanted}", "give one for each query and expert")
        part = copy.copy(self)
        object.__setattr__(part, "latency_s", latency_s)
        object.__setattr__(part, "notes", (*self.notes, *notes))
        return part

    @classmethod
    def read(
        cls, path: str | Path, *, allow_leakage: bool = False, seed: int = 0, progress: bool = True
    ) -> OutcomeTable:
        """Read a Parquet file.

        A file without `split` is split 60/20/20 by prompt. A file with train and test rows only gets a
        quarter of its train prompts as validation. A file with a single split is split again. `notes` records
        what was done.

        Args:
            path: the file. `experts.open_table` also takes the name of a source.
            allow_leakage: accept a prompt that occurs in two splits or folds; `notes` then says so.
            seed: of the split made here.
            progress: show progress on stderr.

        Raises:
            InputError: names the file, the column, the row and the fix.
        """
        values = read_columns(Path(path), progress=progress)
        values = complete_split(values, seed=seed)
        return cls(**allow_leaks(values) if allow_leakage else values)

    def write(self, path: Path | str) -> None:
        """Write the table as Parquet (zstd), atomically.

        Args:
            path: the file.
        """
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        write_table(Path(path), columns)


def _as_float32(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asanyarray(value)  # a memory map stays one
        return array if array.dtype == np.float32 else array.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(name, type(value).__name__, f"is not numeric ({error})", "give floats") from error


def _as_int64(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
        whole = array.astype(np.int64)
    except (TypeError, ValueError) as error:
        raise InputError(name, type(value).__name__, f"is not integer ({error})", "give integers") from error
    wrong = np.flatnonzero(np.ravel(whole != array))
    if len(wrong):
        raise InputError(
            name, np.ravel(array)[wrong[0]], f"row {wrong[0]} is not an integer", "give integers"
        )
    return whole


def _as_text(name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray) and value.dtype.kind == "U" and value.ndim == 1 and name == "split":
        return value.astype("U10") if np.isin(value, SPLITS).all() else value.astype(object)
    array = np.asarray(value, dtype=object)
    if array.ndim != 1:
        raise InputError(name, array.shape, "is not one value a row", "give T values")
    for row, item in enumerate(array):
        if item is None or item != item:  # a data frame has NaN for a missing text
            raise InputError(name, item, f"row {row} is missing", "fill it in or drop the row")
    text = np.array([str(item) for item in array], dtype=object)
    return text.astype("U10") if name == "split" and all(item in SPLITS for item in text) else text


def _as_slice(rows: np.ndarray) -> np.ndarray | slice:
    """Return consecutive rows as a slice, so that a memory map is viewed and not copied."""
    first, last = int(rows[0]), int(rows[-1])
    if first >= 0 and last - first + 1 == len(rows) and bool((np.diff(rows) == 1).all()):
        return slice(first, last + 1)
    return rows
