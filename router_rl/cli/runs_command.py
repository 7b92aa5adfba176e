"""`runs`: list training runs and comparisons, or show how two differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from experts import InputError

from ..reports.runs_view import runs_view
from .command import Command
from .outputs import is_being_written

__all__ = ["COMMAND", "runs"]

Action = Literal["list", "diff"]


def runs(*, action: Action, folders: list[Path] | None = None) -> dict[str, Any]:
    """List training runs and comparisons, or show how two of them differ: options, data, versions, results.

    Args:
        action: list or diff.
        folders: folders to search, for `list`; two folders of runs or comparisons, for `diff`.
    """
    from ..studies.run_difference import difference_of_runs
    from ..studies.run_index import entry_of, find_runs

    given = [Path(folder) for folder in folders or ()]
    if action == "list":
        entries, messages = find_runs(given or [Path("runs")])
        return {"runs": [_with_state(entry).to_json() for entry in entries], "notes": messages}
    if len(given) != 2:
        raise InputError("folders", [str(each) for each in given], "are not two", "write runs diff A B")
    first, second = (_with_state(entry_of("folders", each)) for each in given)
    return difference_of_runs(first, second)


def _with_state(entry: Any) -> Any:
    """Return an entry that is not finished as `running`, if a command is writing it."""
    unfinished = entry.state == "interrupted" and is_being_written(entry.folder)
    return replace(entry, state="running") if unfinished else entry


COMMAND = Command(
    run=runs,
    view=runs_view,
    positional=(
        ("action", Action, "list or diff"),
        ("folders", list[Path], "folders to search (default: runs), or the two to compare"),
    ),
)
