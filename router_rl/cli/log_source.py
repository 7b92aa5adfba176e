"""The decision log that an option names: a Parquet file, or the database of `serve` by its URL."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from .serve_extra import serve_extra

__all__ = ["is_url", "log_file", "without_passwords"]


def is_url(log: str) -> bool:
    """Return whether a log is named by a database URL, not by a path."""
    return "://" in log


@contextmanager
def log_file(log: str) -> Generator[Path, None, None]:
    """Yield the Parquet file of a log; a database is exported to a temporary one.

    Args:
        log: path of a Parquet file, or a URL such as `sqlite:///decisions.db`.

    Raises:
        InputError: the database cannot be read, or has no decisions.
    """
    if not is_url(log):
        yield Path(log)
        return
    with serve_extra("log"):
        from ..serving.log_export import export_log
        from ..serving.log_store import opened_log

    with TemporaryDirectory(prefix="router-rl-") as folder:
        path = Path(folder) / "log.parquet"
        with opened_log(log) as store:
            export_log(store, path)
        yield path


def without_passwords(text: str) -> str:
    """Return a text with `***` in place of the passwords of its URLs.

    >>> without_passwords("log: postgresql://me:secret@host/name")
    'log: postgresql://me:***@host/name'
    """
    return re.sub(r"(://[^:/@\s]*):[^/\s]*@", r"\1:***@", text)
