"""IDX files, the format of the MNIST data sets: a magic number, the sizes, then bytes.

Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database, "File formats".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from ..io.errors import InputError

__all__ = ["read_idx"]

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the array of an IDX file of unsigned bytes.

    Args:
        path: the file, gzipped if its name ends in .gz.
        dimensions: the expected number: 1 for labels, 3 for images.

    Returns:
        uint8, of the shape in the file's header.

    Raises:
        InputError: the file is damaged, has the wrong length, or is not an IDX file of these dimensions.
    """
    fix = "get the file again"
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError("file", str(path), f"cannot be read ({error})", fix) from error
    header = 4 + 4 * dimensions
    expected = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if raw[:4] != expected or len(raw) < header:
        problem = f"starts with {raw[:4].hex()}, an IDX file of {dimensions} dimensions with {expected.hex()}"
        raise InputError("file", str(path), problem, fix)
    shape = struct.unpack(f">{dimensions}I", raw[4:header])
    if len(raw) - header != math.prod(shape):
        problem = f"states {math.prod(shape)} bytes for shape {shape} and holds {len(raw) - header}"
        raise InputError("file", str(path), problem, fix)
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)
