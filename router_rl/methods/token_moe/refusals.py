"""Why a method of token-level routing cannot be used on a problem: a reason, or None where it can be."""

from __future__ import annotations

from ...problems.token_moe.problem import TokenMoEProblem

__all__ = ["needs_fixed", "needs_fixed_paths", "needs_paths", "needs_topk", "needs_topk_paths"]


def needs_paths(problem: TokenMoEProblem) -> str | None:
    """Return why a method that reads the losses along each expert's path cannot be used, or None.

    Args:
        problem: the problem.
    """
    if problem.pool.gates is None:
        return None
    return "needs experts with a common ancestor, not those of problem.model, which work together"


def needs_topk(problem: TokenMoEProblem) -> str | None:
    """Return why a method that selects a fixed number among all experts cannot be used, or None.

    Args:
        problem: the problem.
    """
    rule = problem.options.select
    return None if rule == "topk" else f"selects the best experts, not by {rule} selection"


def needs_fixed(problem: TokenMoEProblem) -> str | None:
    """Return why a method of a fixed number of experts cannot be used, or None.

    Args:
        problem: the problem.
    """
    return "selects a fixed number of experts" if problem.options.select == "adaptive_k" else None


def needs_fixed_paths(problem: TokenMoEProblem) -> str | None:
    """Return why a method that also needs the losses of the experts' paths cannot be used, or None.

    Args:
        problem: the problem.
    """
    return needs_paths(problem) or needs_fixed(problem)


def needs_topk_paths(problem: TokenMoEProblem) -> str | None:
    """Return why a method that needs both cannot be used, or None.

    Args:
        problem: the problem.
    """
    return needs_paths(problem) or needs_topk(problem)
