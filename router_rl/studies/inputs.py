"""What each method's router reads: the inputs that all methods share, and the methods that differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from experts.io.json_file import read_json

from ..problems.problem import Problem
from .entry import Entry, Groups

__all__ = ["inputs_section", "router_inputs"]

_OF_BOUNDS = ("outcomes",)


class _Saved(TypedDict, total=False):
    """The field of `router.json` that is read here."""

    inputs: list[str]


def inputs_section(groups: Groups, problem: Problem) -> dict[str, Any]:
    """Return the inputs for `results.json`: `shared`, and by method where they differ.

    Args:
        groups: entries by method and case label.
        problem: the problem.
    """
    shared = list(problem.inputs)
    methods = {group[0].method: _inputs_of(group[0], problem) for group in groups.values()}
    return {"shared": shared, "methods": {name: own for name, own in methods.items() if own != shared}}


def router_inputs(folder: Path | None, problem: Problem) -> list[str]:
    """Return the inputs of a saved router or policy: those in its file, or the problem's.

    Args:
        folder: folder of the saved router; None if nothing was saved.
        problem: the problem.

    Raises:
        InputError: the file is damaged.
    """
    path = None if folder is None else folder / "router.json"
    if problem.observes or path is None or not path.exists():
        return list(problem.inputs)
    saved = read_json("router", path, _Saved, fix=f"delete {path.parents[1]} and run the same command again")
    return list(saved.get("inputs", problem.inputs))


def _inputs_of(entry: Entry, problem: Problem) -> list[str]:
    if entry.family == "bound":
        return list(_OF_BOUNDS)
    return router_inputs(entry.router, problem)
