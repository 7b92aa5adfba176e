"""The numbers of each query and expert in a table, read by row groups; large ones are memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..io.progress import track
from . import mapped_column
from .mapped_column import extracted
from .parquet_columns import float_column

__all__ = ["read_outcomes"]

_CHUNK = 16_384  # rows extracted together


def read_outcomes(
    file: pq.ParquetFile, path: Path, kind: str, experts: Sequence[str], *, progress: bool
) -> np.ndarray:
    """Return the columns `KIND/<expert>` of an outcome table.

    Args:
        file: the open table.
        path: of that file.
        kind: such as `quality`; experts without the column have NaN.
        experts: N names.
        progress: show progress on stderr while large columns are extracted.

    Returns:
        [T, N] float32, memory-mapped and read-only if it is large; missing numbers are NaN.

    Raises:
        InputError: a column is not numeric.
    """
    shape = file.metadata.num_rows, len(experts)
    names = {f"{kind}/{expert}": place for place, expert in enumerate(experts)}
    names = {name: place for name, place in names.items() if name in file.schema_arrow.names}
    large = 4 * shape[0] * shape[1] >= mapped_column.MAP_FROM_BYTES

    def fill(target: np.ndarray) -> None:
        if len(names) < len(experts):  # an optional column of some experts only
            target[:] = np.nan
        start, groups = 0, range(file.num_row_groups)
        for group in track(groups, f"reading {kind}", len(groups), shown=progress and large):
            for batch in file.iter_batches(batch_size=_CHUNK, row_groups=[group], columns=list(names)):
                batch.validate(full=True)
                for name, place in names.items():
                    column = pa.chunked_array([batch[name]])
                    target[start : start + len(batch), place] = float_column(name, column)
                start += len(batch)

    if large:
        return extracted(path, kind, shape, fill)
    target = np.empty(shape, dtype=np.float32)
    fill(target)
    return target
