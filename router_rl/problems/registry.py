"""Registry of problems by name (`--env`). A new problem is one folder and one line here.

A problem's module is imported when the problem is used. Installed packages add problems through the entry
point group `router_rl.problems`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from experts.io.plugins import PluginRegistry

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["PROBLEMS", "find_problem", "problem_names"]

PROBLEMS = PluginRegistry(
    "env",
    "router_rl.problems",
    {
        "routing": "router_rl.problems.routing.problem:RoutingProblem",
        "cascade": "router_rl.problems.cascade.problem:CascadeProblem",
        "queueing": "router_rl.problems.queueing.problem:QueueingProblem",
        "caching": "router_rl.problems.caching.problem:CachingProblem",
        "token_moe": "router_rl.problems.token_moe.problem:TokenMoEProblem",
    },
)


def problem_names() -> list[str]:
    """Return the names of all problems, those of installed packages last, without importing them."""
    return list(PROBLEMS)


def find_problem(name: str) -> type[Problem]:
    """Import a problem's class.

    Args:
        name: name of the problem.

    Raises:
        InputError: the name is unknown; the error suggests the nearest one.
    """
    problem: type[Problem] = PROBLEMS.load(name)
    return problem
