"""The gates that an existing mixture has: where training starts, and a method of every comparison with it."""

from __future__ import annotations

from typing import cast

import torch

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from ...routing import LinearScorer
from ..method import Method, NoHyperparameters, Run

__all__ = ["METHOD", "needs_flat", "needs_flat_paths", "needs_paths", "own_gates"]


def own_gates(problem: TokenMoEProblem) -> LayerRouters:
    """Return the mixture's own gates as routers, with biases frozen at 0, as stock gates have none.

    Args:
        problem: of an existing mixture.
    """
    gates = problem.pool.gates
    assert gates is not None
    routers = LayerRouters(len(gates.weights), gates.weights.shape[2], problem.selections, problem.experts)
    with torch.no_grad():
        for scorer, weight in zip(routers.scorers, gates.weights, strict=True):
            cast(LinearScorer, scorer).weight.copy_(weight)
    for scorer in routers.scorers:
        cast(LinearScorer, scorer).bias.requires_grad_(False)
    return routers


def needs_paths(problem: TokenMoEProblem) -> str | None:
    """Return why a method that reads the losses along each expert's path cannot be used, or None.

    Args:
        problem: the problem.
    """
    if problem.pool.gates is None:
        return None
    return "needs experts with a common ancestor, not those of problem.model, which work together"


def needs_flat(problem: TokenMoEProblem) -> str | None:
    """Return why a method that selects among all experts at once cannot be used, or None.

    Args:
        problem: the problem.
    """
    return None if problem.tree is None else "selects among all experts at once, not in a tree"


def needs_flat_paths(problem: TokenMoEProblem) -> str | None:
    """Return why a method that needs both cannot be used, or None.

    Args:
        problem: the problem.
    """
    return needs_paths(problem) or needs_flat(problem)


def _needs_gates(problem: TokenMoEProblem) -> str | None:
    return "needs problem.model, a mixture with gates" if problem.pool.gates is None else None


def _fit(problem: TokenMoEProblem, hyperparameters: NoHyperparameters, run: Run) -> LayerPolicy:
    routers = own_gates(problem)
    return LayerPolicy(choose=routers.choose, routers=routers)


METHOD = Method(
    name="own_gates",
    family="gate",
    fit=_fit,
    refuses=_needs_gates,
    about="the gates that an existing mixture has",
)
