"""Routers that ignore the query: random, best single expert, zero router."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ...problems.routing.problem import RoutingProblem
from ...routing import ConstantScorer, Router
from ..method import Method, NoHyperparameters, Run

__all__ = ["METHODS", "budget_mixture", "fit_best_single", "fit_random", "fit_zero_router", "zero_mixture"]


def fit_random(problem: RoutingProblem, hyperparameters: NoHyperparameters, run: Run) -> Router:
    """Return a router that selects experts uniformly at random."""
    return _constant(problem, np.zeros(len(problem.train.experts)), stochastic=True)


def fit_best_single(problem: RoutingProblem, hyperparameters: NoHyperparameters, run: Run) -> Router:
    """Return a router that selects the expert with the highest utility on training and validation rows.

    With top-k selection, it selects the k best experts.
    """
    return _constant(problem, problem.mean_utility(), stochastic=False, temperature=0.0)


def fit_zero_router(problem: RoutingProblem, hyperparameters: NoHyperparameters, run: Run) -> Router:
    """Return the best mixture of two constant routers (RouterBench, Hu et al. 2024, section 4).

    Without a load penalty utility is linear in the mixture, so the best mixture is a single expert; with one,
    mixing balances the load. Its frontier is the zero-router line of the report.

    Source: https://arxiv.org/abs/2403.12031.
    """
    utility, budget = problem.mean_utility(), problem.objective.budget
    if budget is None:
        probabilities = zero_mixture(utility, problem.objective.load_weight)
    else:
        free = problem.with_objective(
            replace(problem.objective, budget=None, compute_weight=0.0)
        ).mean_utility()
        probabilities = budget_mixture(free, problem.mean_compute(), budget)
    return _constant(problem, np.log(np.maximum(probabilities, 1e-30)), stochastic=True)


def zero_mixture(utility: np.ndarray, load_weight: float) -> np.ndarray:
    """Return the probabilities [N] of the best two-expert mixture of `p . u - load_weight (N sum p^2 - 1)`.

    With weight a on expert i and 1 - a on j, the optimum is `a = 1/2 + (u_i - u_j) / (4 N load_weight)`,
    clipped to [0, 1].

    Args:
        utility: [N] float64, utility of each expert without load.
        load_weight: at least 0.

    >>> zero_mixture(np.array([1.0, 0.5]), 0.0)
    array([1., 0.])
    >>> zero_mixture(np.array([1.0, 0.5]), 0.125)
    array([1., 0.])
    >>> zero_mixture(np.array([1.0, 0.5]), 0.25)
    array([0.75, 0.25])
    """
    count = len(utility)
    best, mixture = -np.inf, np.zeros(count)
    for i in range(count):
        for j in range(count):
            gain = utility[i] - utility[j]
            share = 1.0 if load_weight == 0.0 else np.clip(0.5 + gain / (4 * count * load_weight), 0.0, 1.0)
            p = np.zeros(count)
            p[j] += 1.0 - share
            p[i] += share
            value = p @ utility - load_weight * (count * (p @ p) - 1.0)
            if value > best:
                best, mixture = value, p
    return mixture


def budget_mixture(quality: np.ndarray, compute: np.ndarray, budget: float) -> np.ndarray:
    """Return the probabilities [N] of the best mixture of at most two experts within a budget.

    Args:
        quality: [N] float64.
        compute: [N] float64, at least one within the budget.
        budget: maximum mean compute.

    >>> budget_mixture(np.array([0.5, 1.0, 0.4]), np.array([0.2, 1.0, 0.1]), 0.6)
    array([0.5, 0.5, 0. ])
    """
    best, mixture = -np.inf, np.zeros(len(quality))
    for i in np.flatnonzero(compute <= budget):
        for j in range(len(quality)):
            # All of j if it is affordable, else as much as the budget allows.
            share = 1.0 if compute[j] <= budget else (budget - compute[i]) / (compute[j] - compute[i])
            value = (1.0 - share) * quality[i] + share * quality[j]
            if value > best:
                best, mixture = value, np.zeros(len(quality))
                mixture[i] += 1.0 - share
                mixture[j] += share
    return mixture


def _constant(
    problem: RoutingProblem, values: np.ndarray, *, stochastic: bool, temperature: float = 1.0
) -> Router:
    router = problem.new_router(0, kind="constant")
    router.stochastic = stochastic
    scorer = router.scorer
    assert isinstance(scorer, ConstantScorer)
    with torch.no_grad():
        scorer.logits.copy_(problem.rule.lift(torch.from_numpy(values), temperature))
    return router.eval()


METHODS = (
    Method(
        name="random",
        family="baseline",
        fit=fit_random,
        about="every expert with equal probability",
        sparse=True,
        holds_budget=True,
        starts=False,
    ),
    Method(
        name="best_single",
        family="baseline",
        fit=fit_best_single,
        about="one expert for every query",
        sparse=True,
        holds_budget=True,
    ),
    Method(
        name="zero_router",
        family="baseline",
        fit=fit_zero_router,
        about="best mixture of two constant routers",
        sparse=True,
        holds_budget=True,
        starts=False,
    ),
)
