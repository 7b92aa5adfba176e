"""Digests of data and options, the keys of cached trials."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from experts import OutcomeTable
from experts.table.mapped_column import released

__all__ = ["digest_of", "rows_digest", "table_digest"]


def digest_of(*parts: Any) -> str:
    """Return a digest of JSON values and NumPy arrays, 16 hexadecimal digits.

    Args:
        parts: values in order; None is distinct from every other value.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def table_digest(table: OutcomeTable) -> str:
    """Return a digest of everything that training and evaluation read from a table, 16 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps([*table.experts, table.cost_unit]).encode())
    floats = (table.features, table.quality, table.cost, table.confidence, table.tokens_in, table.tokens_out)
    for array in (*floats, table.latency_s, table.probabilities, table.label, table.fold):
        digest.update(b"\0" if array is None else _bytes(array))
        if array is not None:
            released(array)
    for labels in (table.split, table.group, table.prompt):
        digest.update(b"\0" if labels is None else "\0".join(map(str, labels)).encode())
    if table.extra is not None:
        for name in table.extra.column_names:
            digest.update(f"\0{name}\0{table.extra[name].to_pylist()!r}".encode())
    return digest.hexdigest()[:16]


def _bytes(array: np.ndarray) -> memoryview:
    """Return the bytes of an array; a missing number is always the same NaN."""
    if array.dtype == np.float32 and np.isnan(array.min(initial=0.0)):
        array = np.where(np.isnan(array), np.float32(np.nan), array)
    return np.ascontiguousarray(array).data


def rows_digest(rows: OutcomeTable) -> str:
    """Return a digest of what is known of each query in order, whatever its features: 16 hexadecimal digits.

    Results on rows of equal digests can be paired query by query.

    Args:
        rows: such as the test rows of a table.
    """
    names = [*map(str, rows.query_id)]
    return digest_of([*rows.experts, rows.cost_unit], names, rows.quality, rows.cost)
