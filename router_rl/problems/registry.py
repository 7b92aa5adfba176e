"""Registry of problems by name (`--env`). A new problem is one folder and one line here.

A problem's module is imported when the problem is used. Installed packages add problems through the entry
point group `router_rl.problems`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from experts.io.errors import unknown_name

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["PROBLEMS", "find_problem", "problem_names"]

_ENTRY_POINTS = "router_rl.problems"

PROBLEMS: dict[str, str] = {
    "routing": "router_rl.problems.routing.problem:RoutingProblem",
    "cascade": "router_rl.problems.cascade.problem:CascadeProblem",
    "queueing": "router_rl.problems.queueing.problem:QueueingProblem",
    "caching": "router_rl.problems.caching.problem:CachingProblem",
    "token_moe": "router_rl.problems.token_moe.problem:TokenMoEProblem",
}


def problem_names() -> list[str]:
    """Return the names of all problems, those of installed packages last, without importing them."""
    return list(_locations())


def find_problem(name: str) -> type[Problem]:
    """Import a problem's class.

    Args:
        name: name of the problem.

    Raises:
        InputError: the name is unknown; the error suggests the nearest one.
    """
    locations = _locations()
    if name not in locations:
        raise unknown_name("env", name, locations)
    module, _, attribute = locations[name].partition(":")
    problem: type[Problem] = getattr(import_module(module), attribute)
    return problem


@cache
def _locations() -> dict[str, str]:
    locations = dict(PROBLEMS)
    for entry in entry_points(group=_ENTRY_POINTS):
        locations.setdefault(entry.name, entry.value)
    return locations
