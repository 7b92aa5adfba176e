"""The gates that an existing mixture has: where training starts, and a method of every comparison with it."""

from __future__ import annotations

from typing import cast

import torch

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from ...routing import LinearScorer
from ..method import Method, NoHyperparameters, Run

__all__ = ["METHOD", "own_gates"]


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
