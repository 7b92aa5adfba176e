"""Registry of problems by name (`--env`). A new problem is one folder and one line here.

A problem's module is imported when the problem is used. Installed packages add problems through the entry
point group `router_rl.problems`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from experts.io.plugins import PluginRegistry

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["PROBLEMS", "find_options", "find_problem", "problem_names"]

PROBLEMS = PluginRegistry(
    "env",
    "router_rl.problems",
    {
        "routing": "router_rl.problems.routing.problem:RoutingProblem",
        "cascade": "router_rl.problems.cascade.problem:CascadeProblem",
        "queueing": "router_rl.problems.queueing.problem:QueueingProblem",
        "caching": "router_rl.problems.caching.problem:CachingProblem",
        "session": "router_rl.problems.session.problem:SessionProblem",
        "token_moe": "router_rl.problems.token_moe.problem:TokenMoEProblem",
    },
)

# Options that can be imported without the problem, which imports torch: they keep help fast.
_OPTIONS = {
    "routing": "router_rl.problems.routing.routing_options:RoutingOptions",
    "cascade": "router_rl.problems.cascade.cascade_options:CascadeOptions",
    "queueing": "router_rl.problems.queueing.queueing_options:QueueingOptions",
    "caching": "router_rl.problems.caching.caching_options:CachingOptions",
    "session": "router_rl.problems.session.session_options:SessionOptions",
    "token_moe": "router_rl.problems.token_moe.token_moe_options:TokenMoEOptions",
}


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


def find_options(name: str) -> type:
    """Import the options dataclass of a problem, without the problem if it can be.

    Args:
        name: name of the problem.

    Raises:
        InputError: the name is unknown; the error suggests the nearest one.
    """
    if name not in _OPTIONS:
        return find_problem(name).options_type
    module, _, attribute = _OPTIONS[name].partition(":")
    options: type = getattr(import_module(module), attribute)
    return options
