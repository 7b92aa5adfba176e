"""The formats of other servers' logs by name, one file and one line each, and their detection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..io.errors import InputError, unknown_name
from . import litellm_spend, vsr_replay
from .files import Record, records
from .served import LogReader

__all__ = ["LOG_FORMATS", "detect_log", "find_log_format"]

LOG_FORMATS: dict[str, LogReader] = {"litellm": litellm_spend.READER, "vsr_replay": vsr_replay.READER}


def find_log_format(name: str, files: Sequence[Path]) -> str:
    """Return the name of a format; `auto` detects it by the columns of the first row.

    Args:
        name: a key of `LOG_FORMATS`, or `auto`.
        files: files of the log.

    Raises:
        InputError: the name is unknown, or no format is detected.
    """
    if name != "auto":
        if name not in LOG_FORMATS:
            raise unknown_name("format", name, ["auto", *LOG_FORMATS])
        return name
    for file in files:
        row = next(records(file), None)
        if row is not None:
            detected = detect_log(row)
            if detected is not None:
                return detected
            needed = "; ".join(f"{known}: {', '.join(sorted(r.columns))}" for known, r in LOG_FORMATS.items())
            shown = ", ".join(map(repr, list(row)[:8])) or "none"
            problem = f"is of no known format; its columns begin {shown}"
            raise InputError("source", str(file), problem, f"export rows with the columns of {needed}")
    raise InputError("source", str(files[0]), "has no rows", "give a log")


def detect_log(row: Record) -> str | None:
    """Return the name of the format of a log's row, or None if it is no such log."""
    return next((name for name, reader in LOG_FORMATS.items() if reader.columns <= row.keys()), None)
