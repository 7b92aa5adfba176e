"""Columns of Parquet files as arrays; a column of another type is an error that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..io.errors import InputError

__all__ = ["check_numbers", "float_column", "number_column", "text_column", "whole_column"]

_SHARED = 1_000  # distinct texts up to which rows share them


def text_column(name: str, column: pa.ChunkedArray, path: Path) -> np.ndarray:
    """Return a column of texts or of other single values as objects, [T], None where it is missing.

    Args:
        name: of the column.
        column: of texts, numbers, truth values or dates.
        path: of the file, for the error.

    Raises:
        InputError: the column holds lists, structures or bytes.
    """
    kind = _plain(column.type)
    if pa.types.is_nested(kind) or _is_bytes(kind) or pa.types.is_null(kind):
        problem = f"{path}: is not a column of texts"
        raise InputError(name, str(column.type), problem, "store strings, or drop the column")
    values = np.empty(len(column), dtype=object)
    if pa.types.is_string(kind) and not pa.types.is_dictionary(column.type):
        coded: Any = pc.call_function("dictionary_encode", [column.combine_chunks()])
        if len(coded.dictionary) <= _SHARED:  # one object for all rows with the same text, such as a split
            texts = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
            return texts[pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)]
    values[:] = column.to_pylist()
    return values


def whole_column(name: str, column: pa.ChunkedArray, path: Path) -> np.ndarray:
    """Return a column of whole numbers, [T].

    Args:
        name: of the column.
        column: of numbers.
        path: of the file, for the error.

    Raises:
        InputError: the column is not numeric, or a value is missing.
    """
    check_numbers(name, column.type)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise InputError(name, None, f"row {row} is missing in {path}", "fill it in or drop the column")
    try:
        return pc.cast(column, pa.int64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        problem = f"{path}: is not a column of integers ({error})"
        raise InputError(name, str(column.type), problem, "give integers of 64 bits") from error


def float_column(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers, [T] float32, NaN where it is missing.

    Args:
        name: of the column.
        column: of numbers or truth values.

    Raises:
        InputError: the column is not numeric.
    """
    return _floats(name, column, pa.float32())


def number_column(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers in full precision, such as times: [T] float64, NaN where it is missing.

    Args:
        name: of the column.
        column: of numbers or truth values.

    Raises:
        InputError: the column is not numeric.
    """
    return _floats(name, column, pa.float64())


def check_numbers(name: str, kind: pa.DataType) -> None:
    """Check that a column, or the values of its lists, are numbers, truth values or missing.

    Texts are not: Arrow would convert those that look like numbers, and dates to days.

    Args:
        name: of the column.
        kind: its type.

    Raises:
        InputError: they are not.
    """
    values: Any = kind
    while pa.types.is_list(values) or pa.types.is_large_list(values) or pa.types.is_fixed_size_list(values):
        values = values.value_type
    values = _plain(values)
    number = pa.types.is_integer(values) or pa.types.is_floating(values) or pa.types.is_decimal(values)
    if not (number or pa.types.is_boolean(values) or pa.types.is_null(values)):
        raise InputError(name, str(kind), "is not numeric", "store float32")


def _floats(name: str, column: pa.ChunkedArray, kind: pa.DataType) -> np.ndarray:
    check_numbers(name, column.type)
    try:
        values = pc.cast(column, kind, safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(name, str(column.type), f"is not numeric ({error})", f"store {kind}") from error
    return pc.fill_null(values, float("nan")).to_numpy()


def _plain(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_bytes(kind: Any) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
