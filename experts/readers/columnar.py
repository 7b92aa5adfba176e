"""Wide results in Parquet that are a table already: read by columns, much faster and in less memory.

Row by row, every pair of query and expert is an object for a moment: 100,000 queries of 64 experts take
minutes, and a large table does not fit into memory. Results are read by columns only if that gives the same
table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..io.errors import InputError
from ..table.missing_outcomes import missing_count
from ..table.parquet import read_columns
from ..table.splitting import SPLITS

__all__ = ["columns_of"]

_KINDS = ("quality", "cost", "tokens_in", "tokens_out", "latency_s", "confidence")
_FACTS = ("query_id", "prompt", "group", "split", "fold", "features")


def columns_of(files: Sequence[Path], *, progress: bool) -> dict[str, Any] | None:
    """Return the fields of an OutcomeTable, or None where results must be read row by row.

    That is so for several files, other formats than Parquet, columns of other names or types, missing values,
    and whatever is wrong with the values: row by row, errors name the place and holes are filled.

    Args:
        files: wide results.
        progress: show progress on stderr.
    """
    if len(files) != 1 or files[0].suffix != ".parquet":
        return None
    try:
        with pq.ParquetFile(files[0]) as file:
            schema = file.schema_arrow
        if not _plain(schema):
            return None
        columns = read_columns(files[0], progress=progress, field="source")
    except (InputError, pa.ArrowException, OSError, ValueError):
        return None
    named = [name.removeprefix("quality/") for name in schema.names if name.startswith("quality/")]
    if list(columns["experts"]) != named or not _whole(columns):
        return None
    for kind in _KINDS:
        if kind in columns and np.isnan(columns[kind].min()) and np.isnan(columns[kind]).all():
            del columns[kind]
    return columns


def _plain(schema: pa.Schema) -> bool:
    """Return whether every column is one of an outcome table, of numbers or texts."""
    experts = {name.removeprefix("quality/") for name in schema.names if name.startswith("quality/")}
    if len(set(schema.names)) < len(schema.names) or "query_id" not in schema.names:
        return False
    for field in schema:
        kind, _, expert = field.name.partition("/")
        listed: Any = field.type
        if kind in _KINDS and expert:
            fits = expert in experts and pa.types.is_floating(listed)
        elif field.name == "features":
            fits = pa.types.is_fixed_size_list(listed) and pa.types.is_float32(listed.value_type)
        elif field.name == "fold":
            fits = pa.types.is_integer(listed)
        else:
            fits = field.name in _FACTS and pa.types.is_string(listed)
        if not fits:
            return False
    return True


def _whole(columns: dict[str, Any]) -> bool:
    """Return whether nothing is missing that would be filled in, and nothing has to be reported."""
    for name in ("query_id", "prompt", "group", "split"):
        texts = columns.get(name)
        if texts is not None and not all(text is not None and text.strip() for text in texts):
            return False
    split, features = columns.get("split"), columns.get("features")
    if split is not None and not set(split) <= set(SPLITS):
        return False
    if features is not None and np.isnan(features.min()):
        return False
    ids = columns["query_id"]
    hashes = np.sort(np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids)))
    if any("\0" in name for name in ids) or (hashes[1:] == hashes[:-1]).any():
        return False
    for kind in set(_KINDS) & set(columns):
        low, high = np.fmin.reduce(columns[kind], axis=None), np.fmax.reduce(columns[kind], axis=None)
        lowest, highest = -np.inf if kind == "confidence" else 0.0, 1.0 if kind == "quality" else np.inf
        if low < lowest or high > highest or np.isinf([low, high]).any():
            return False
    return missing_count(columns["quality"]) == missing_count(columns["cost"]) == 0
