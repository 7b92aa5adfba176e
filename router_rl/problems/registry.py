"""Every problem by its name after `--env`. A new one is a folder and a line here.

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
    """Names of the problems, those of installed packages last; imports none of them."""
    return list(_places())


def find_problem(name: str) -> type[Problem]:
    """Import a problem's class.

    Raises:
        InputError: unknown; suggests the nearest name.
    """
    places = _places()
    if name not in places:
        raise unknown_name("env", name, places)
    module, _, attribute = places[name].partition(":")
    found: type[Problem] = getattr(import_module(module), attribute)
    return found


@cache
def _places() -> dict[str, str]:
    places = dict(PROBLEMS)
    for entry in entry_points(group=_ENTRY_POINTS):
        places.setdefault(entry.name, entry.value)
    return places
