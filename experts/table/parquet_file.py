"""Parquet files from outside: opened with checks, and errors of damaged ones in one line."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..io.errors import InputError

__all__ = ["damage_reported", "opened_parquet"]

# A damaged file can fail in any of these ways: Arrow does not check all that it reads.
_DAMAGE = (
    pa.ArrowException,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
)


@contextmanager
def damage_reported(field: str, path: Path | str, fix: str) -> Generator[None, None, None]:
    """Report what reading a damaged Parquet file raises, as an error of one line.

    Args:
        field: the option or field that names the file.
        path: the file.
        fix: what to do about it.

    Raises:
        InputError: in place of any error but an InputError.
    """
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(field, str(path), f"is not a readable Parquet file ({reason})", fix) from error


@contextmanager
def opened_parquet(field: str, path: Path, fix: str) -> Generator[pq.ParquetFile, None, None]:
    """Open a Parquet file; what is wrong with it is reported while it is open, too.

    Args:
        field: the option or field that names the file.
        path: the file.
        fix: what to give instead.

    Raises:
        InputError: the path is not a regular file, or the file is damaged or has a column twice.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(field, str(path), "no such file", fix) from error
    except OSError as error:
        raise InputError(field, str(path), f"cannot be read ({error.strerror})", fix) from error
    if not stat.S_ISREG(mode):
        problem = "is a folder" if stat.S_ISDIR(mode) else "is not a regular file"
        raise InputError(field, str(path), problem, fix)
    with damage_reported(field, path, "write it again"), pq.ParquetFile(path) as file:
        for name, count in Counter(file.schema_arrow.names).items():
            if count > 1:
                raise InputError(name, count, f"occurs {count} times in {path}", "rename one column")
        yield file
