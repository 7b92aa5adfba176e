"""The feature column of a table; a large one is memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..io.errors import InputError
from ..io.progress import track
from .mapped_column import MAP_FROM_BYTES, extracted
from .parquet_columns import check_numbers

__all__ = ["MAP_FROM_BYTES", "is_list", "list_column", "read_features"]

_CHUNK = 16_384  # rows extracted together


def list_column(values: np.ndarray, missing: np.ndarray) -> pa.LargeListArray:
    """Return features as a column of lists; fixed-size lists with nulls cannot be read by pyarrow 25.

    Args:
        values: [T, D] float32.
        missing: [T] bool, rows without features: null.
    """
    lengths = np.where(missing, 0, values.shape[1])
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), type=pa.int64())
    flat = pa.array(np.ascontiguousarray(values[~missing]).reshape(-1))
    return pa.LargeListArray.from_arrays(offsets, flat, mask=pa.array(missing))


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column of this Arrow type holds lists: plain, large or of fixed size."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def read_features(file: pq.ParquetFile, path: Path, *, progress: bool, nullable: bool = False) -> np.ndarray:
    """Return the column `features` of an outcome table or a decision log.

    Args:
        file: the open table.
        path: of that file; the cache key is its path, modification time and size.
        progress: show progress on stderr while a large column is extracted.
        nullable: accept rows without features; all of their numbers are NaN.

    Returns:
        [T, D] float32, memory-mapped and read-only if it is large; missing numbers are NaN.

    Raises:
        InputError: the column is not one list of D numbers a row.
    """
    rows = file.metadata.num_rows
    batch = next(_batches(file, range(file.num_row_groups)), None)
    if batch is None:
        raise InputError("features", 0, f"{path}: the file has no rows", "give at least one row")
    first = batch["features"]
    if not is_list(first.type) or is_list(first.type.value_type):
        raise InputError(
            "features", str(first.type), "is not a list column", "store fixed-size float32 lists"
        )
    check_numbers("features", first.type)
    width = _width(file, nullable)
    if width == 0:
        raise InputError("features", width, "row 0 is empty", "drop the column or fill it")
    if rows * width * 4 < MAP_FROM_BYTES:
        target = np.empty((rows, width), dtype=np.float32)
        _extract(file, target, nullable=nullable)
        return target

    def fill(target: np.ndarray) -> None:
        _extract(file, target, progress=progress, nullable=nullable)

    return extracted(path, "features", (rows, width), fill)


def _width(file: pq.ParquetFile, nullable: bool) -> int:
    """Return the number of features of the first row; with `nullable`, of the first row that has some."""
    for batch in _batches(file, range(file.num_row_groups)):
        column: Any = batch["features"]
        if pa.types.is_fixed_size_list(column.type):
            return int(column.type.list_size)
        known = column.drop_null() if nullable else column
        if len(known):
            return len(known[0].as_py() or ())
    return 0


def _extract(
    file: pq.ParquetFile, target: np.ndarray, *, progress: bool = False, nullable: bool = False
) -> None:
    width = target.shape[1]
    start = 0
    groups = range(file.num_row_groups)
    for batch in _batches(file, track(groups, "reading features", len(groups), shown=progress)):
        column: Any = batch["features"]
        sizes = pc.fill_null(pc.call_function("list_value_length", [column]), 0).to_numpy(
            zero_copy_only=False
        )
        missing = column.is_null().to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(~missing & (sizes != width) if nullable else missing | (sizes != width))
        if len(wrong):
            row = int(wrong[0])
            problem = f"row {start + row} has {int(sizes[row])} values, row 0 has {width}"
            raise InputError(
                "features", int(sizes[row]), problem, "give every row the same number of features"
            )
        try:
            values = pc.cast(column.flatten(), pa.float32(), safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            problem = f"is not numeric ({error})"
            raise InputError("features", str(column.type), problem, "store float32") from error
        values = pc.fill_null(values, float("nan"))
        block = target[start : start + len(batch)]
        known: Any = ~missing if missing.any() else slice(None)
        block[missing] = np.nan
        block[known] = values.to_numpy(zero_copy_only=False).reshape(-1, width)
        start += len(batch)


def _batches(file: pq.ParquetFile, groups: Iterable[int]) -> Iterator[pa.RecordBatch]:
    # One row group at a time: iter_batches over all groups holds the whole column in memory.
    for group in groups:
        for batch in file.iter_batches(batch_size=_CHUNK, row_groups=[group], columns=["features"]):
            if len(batch):
                yield batch
