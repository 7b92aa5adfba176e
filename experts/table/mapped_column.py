"""Large arrays of numbers in memory-mapped files: extracted once from a table, or the rows of a part."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..io.atomic import replacing
from ..io.cache import cache_folder

__all__ = ["MAP_FROM_BYTES", "extracted", "is_mapped", "released", "rows_of", "temporary"]

MAP_FROM_BYTES = 64 * 2**20  # smaller arrays are read into memory
_CHUNK = 65_536  # rows copied together


def extracted(
    path: Path, name: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]
) -> np.ndarray:
    """Return an array that was extracted from a table into the cache folder, memory-mapped and read-only.

    Args:
        path: the table; the array is extracted again if its modification time or size changes.
        name: of the array.
        shape: of the array of float32.
        fill: writes the array.
    """
    stat = path.stat()
    # One file an array: the extraction of an older version of the table is removed.
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    folder = cache_folder(name)
    cached = folder / f"{key}-{stat.st_mtime_ns}-{stat.st_size}.npy"
    if not cached.exists():
        for stale in folder.glob(f"{key}-*.npy"):
            stale.unlink(missing_ok=True)
        with replacing(cached) as temporary:
            mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
            fill(mapped)
            mapped.flush()
    return np.load(cached, mmap_mode="r", allow_pickle=False)


def is_mapped(values: np.ndarray) -> bool:
    """Return whether an array is a memory-mapped file, or a part of one."""
    return isinstance(values, np.memmap) and _map_of(values) is not None


def rows_of(values: np.ndarray, index: np.ndarray | slice) -> np.ndarray:
    """Return rows of an array; many rows of a memory-mapped one are copied to a temporary file.

    Args:
        values: [T, ...].
        index: [M] integers, or a slice, which gives a view.
    """
    if isinstance(index, slice) or not is_mapped(values) or not len(index):
        return values[index]
    if len(index) * values[:1].nbytes < MAP_FROM_BYTES:
        return np.asarray(values[index])
    part = temporary((len(index), *values.shape[1:]))
    for first in range(0, len(index), _CHUNK):
        part[first : first + _CHUNK] = values[index[first : first + _CHUNK]]
    part.flags.writeable = False
    return released(part)


def temporary(shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of float32 in a temporary file, which is removed with its last view.

    Args:
        shape: of the array.
    """
    with tempfile.TemporaryFile(dir=cache_folder("parts")) as file:
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def released(values: np.ndarray) -> np.ndarray:
    """Return an array after dropping the pages of its file from this process; they are read again when used.

    Args:
        values: nothing happens if it is not memory-mapped.
    """
    mapped = _map_of(values)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
    return values


def _map_of(values: Any) -> mmap.mmap | None:
    mapped: mmap.mmap | None = getattr(values, "_mmap", None)
    return mapped
