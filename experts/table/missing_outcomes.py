"""Missing outcomes of a sparse table: how many there are, means over the others, and a check for readers.

Not every expert answered every query of a sparse table. The quality and the cost of a missing pair are NaN,
and null in Parquet. Nothing may count such a pair as an outcome of zero.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..io.errors import InputError

__all__ = [
    "HasOutcomes",
    "answered_mean",
    "complete_rows",
    "missing_count",
    "missing_text",
    "require_complete",
]

_FIX = "import with --missing rows or --missing experts, which leave incomplete rows or experts out"
_CHUNK = 65_536  # rows looked at together, so that a memory map is never loaded as a whole


class HasOutcomes(Protocol):
    """The fields of an `OutcomeTable` that are read here."""

    @property
    def source(self) -> str:
        """Where the outcomes come from."""
        ...

    @property
    def quality(self) -> np.ndarray:
        """[T, N] float32, NaN where an outcome is missing."""
        ...


def missing_count(quality: np.ndarray) -> int:
    """Return the number of missing outcomes.

    Args:
        quality: [T, N] float32, NaN where an outcome is missing.
    """
    return sum(int(np.isnan(part).sum()) for part in _chunks(quality) if np.isnan(part.min()))


def complete_rows(quality: np.ndarray) -> np.ndarray:
    """Return which rows have the outcome of every expert, [T] bool.

    Args:
        quality: [T, N] float32, NaN where an outcome is missing.
    """
    return np.concatenate([~np.isnan(part.min(axis=1)) for part in _chunks(quality)])


def answered_mean(values: np.ndarray) -> np.ndarray:
    """Return each expert's mean over the queries that it answered, [N] float64; NaN if it answered none.

    Args:
        values: [T, N] float, such as cost; NaN where an outcome is missing.

    >>> answered_mean(np.array([[1.0, 0.5], [np.nan, 0.7]], dtype=np.float32)).round(3).tolist()
    [1.0, 0.6]
    """
    mean = values.mean(axis=0, dtype=np.float64)
    for expert in np.flatnonzero(np.isnan(mean)):
        known = values[:, expert][~np.isnan(values[:, expert])]
        mean[expert] = known.mean(dtype=np.float64) if len(known) else np.nan
    return mean


def missing_text(missing: int, total: int) -> str:
    """Return a count of missing outcomes as text.

    Args:
        missing: number of missing outcomes.
        total: number of pairs of query and expert.

    >>> missing_text(1234, 20000)
    '1,234 of 20,000 outcomes are missing (6.2%)'
    """
    return f"{missing:,} of {total:,} outcomes are missing ({missing / total:.1%})"


def require_complete(table: HasOutcomes, reader: str, fix: str = _FIX) -> None:
    """Check that no outcome of a table is missing.

    Args:
        table: the table.
        reader: what needs every outcome, such as `cascade`.
        fix: what to do.

    Raises:
        InputError: outcomes are missing; says how many.
    """
    missing = missing_count(table.quality)
    if missing:
        problem = f"{missing_text(missing, table.quality.size)}, and {reader} needs them all"
        raise InputError("table", table.source, problem, fix)


def _chunks(values: np.ndarray) -> list[np.ndarray]:
    return [values[first : first + _CHUNK] for first in range(0, len(values), _CHUNK)]
