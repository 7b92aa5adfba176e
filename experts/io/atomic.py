"""Atomic writes: at any moment, after a kill too, a file is the complete old one or the complete new one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError
from .temporaries import remove_stale, temporary_beside

__all__ = ["replacing", "sync_file", "sync_folder", "writable_file", "writable_folder", "write_json"]


@contextmanager
def replacing(target: Path | str) -> Generator[Path, None, None]:
    """Yield a temporary path in the target's folder; on success it is flushed and renamed to the target.

    On an exception the temporary file is removed and the target does not change. Temporary files of killed
    processes that wrote the same target are removed.

    Args:
        target: the file to write; its folder is created.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(target)
    temporary = temporary_beside(target, "tmp")
    temporary.touch()
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(target: Path | str, value: Any) -> None:
    """Write a value as indented JSON, atomically.

    Args:
        target: the file to write.
        value: what `json.dumps` takes.

    Raises:
        ValueError: the value holds NaN or an infinity, which JSON does not have.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def writable_folder(field: str, path: Path | str) -> Path:
    """Create a folder and check that it can be written to.

    Args:
        field: the option's name, for the error.
        path: the folder.

    Returns:
        The folder.

    Raises:
        InputError: the folder cannot be created or written to; names the field and the path.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            field, str(path), f"cannot be written ({reason})", "choose a folder you can write to"
        ) from error
    return folder


def writable_file(field: str, path: Path | str) -> Path:
    """Check that a file can be written, and create its folder.

    Args:
        field: the option's name, for the error.
        path: the file.

    Returns:
        The path.

    Raises:
        InputError: the path is a folder, or its folder cannot be written to; names the field and the path.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(field, str(path), "is a folder", "name a file, such as table.parquet")
    writable_folder(field, path.parent)
    return path


def sync_file(path: Path) -> None:
    """Flush a file's content to disk."""
    with path.open("rb+" if os.name == "nt" else "rb") as stream:  # Windows flushes writable files only
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a new file in it survives a power cut.

    Windows cannot flush folders, so nothing happens there.
    """
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
