"""The training runs and comparisons below folders, found by their files: there is no database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from experts import InputError

from .run_entry import RunEntry, kind_of, read_entry

__all__ = ["entry_of", "find_runs"]


def find_runs(folders: Sequence[Path]) -> tuple[list[RunEntry], list[str]]:
    """Return the training runs and comparisons below folders, newest first, and a message on each empty one.

    Hidden folders and links to folders are skipped, and so is what lies inside a run.

    Args:
        folders: folders of runs, or runs.

    Raises:
        InputError: a folder does not exist.
    """
    entries: dict[str, RunEntry] = {}
    messages: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError("folders", str(folder), "is not a folder", "give folders of runs")
        inside = dict(_entries(folder, messages))
        if not inside:
            messages.append(f"{folder}: no training run or comparison")
        entries |= {place: entry for place, entry in inside.items() if place not in entries}
    ordered = sorted(entries.values(), key=lambda entry: str(entry.folder))
    return sorted(ordered, key=lambda entry: entry.when or "", reverse=True), messages


def entry_of(name: str, folder: Path) -> RunEntry:
    """Return one training run or comparison.

    Args:
        name: of the argument, for errors.
        folder: its folder.

    Raises:
        InputError: it is neither, or cannot be read.
    """
    kind = kind_of(folder)
    if kind is None:
        problem = "is no training run or comparison"
        raise InputError(name, str(folder), problem, "give a folder that `train` or `compare` wrote")
    entry = read_entry(folder, kind)
    if entry.error is not None:
        raise InputError(name, str(folder), f"cannot be read: {entry.error}", "give another folder")
    return entry


def _entries(top: Path, messages: list[str]) -> Iterator[tuple[str, RunEntry]]:
    """Yield the real path and the entry of each training run and comparison below a folder."""

    def unreadable(error: OSError) -> None:
        messages.append(f"{error.filename}: cannot be read ({error.strerror})")

    for place, below, _ in os.walk(top, onerror=unreadable):
        folder = Path(place)
        kind = kind_of(folder)
        if kind is not None:
            below.clear()
            yield os.path.realpath(folder), read_entry(folder, kind)
        below[:] = [name for name in below if not name.startswith(".")]
