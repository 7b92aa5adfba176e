"""Routers that do not look at the query: random, best single expert, Zero router."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..method import Run
from ..routing import ConstantScorer, Router
from ..task import Task

__all__ = ["NoSettings", "fit_best_single", "fit_random", "fit_zero_router", "zero_mixture"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoSettings:
    """A method without hyperparameters."""


def fit_random(task: Task, settings: NoSettings, run: Run) -> Router:
    """Every expert with the same probability."""
    return _constant(task, np.zeros(len(task.train.experts)), stochastic=True)


def fit_best_single(task: Task, settings: NoSettings, run: Run) -> Router:
    """The expert with the highest utility on training and validation rows, for every query.

    With top-k selection, the k best: each query runs k experts whoever routes it.
    """
    return _constant(task, task.mean_utility(), stochastic=False, temperature=0.0)


def fit_zero_router(task: Task, settings: NoSettings, run: Run) -> Router:
    """The best mixture of two constant routers for the objective (RouterBench, Hu et al. 2024, section 4).

    Without a load term utility is linear in the mixture, so the best one is a single expert; with one,
    mixing balances. Its whole frontier is the Zero line of the report.

    Source: https://arxiv.org/abs/2403.12031.
    """
    probabilities = zero_mixture(task.mean_utility(), task.objective.load_weight)
    return _constant(task, np.log(np.maximum(probabilities, 1e-30)), stochastic=True)


def zero_mixture(utility: np.ndarray, load_weight: float) -> np.ndarray:
    """Probabilities [N] of the best two-expert mixture: `p . u - load_weight (N sum p^2 - 1)`.

    With weight a on expert i and 1 - a on j, the optimum of the parabola is
    `a = 1/2 + (u_i - u_j) / (4 N load_weight)`, clipped to [0, 1].

    Args:
        utility: [N] float64, quality minus compute charge of each expert.
        load_weight: at least 0.

    >>> zero_mixture(np.array([1.0, 0.5]), 0.0)
    array([1., 0.])
    >>> zero_mixture(np.array([1.0, 0.5]), 0.125)
    array([1., 0.])
    >>> zero_mixture(np.array([1.0, 0.5]), 0.25)
    array([0.75, 0.25])
    """
    count = len(utility)
    best, chosen = -np.inf, np.zeros(count)
    for i in range(count):
        for j in range(count):
            gain = utility[i] - utility[j]
            share = 1.0 if load_weight == 0.0 else np.clip(0.5 + gain / (4 * count * load_weight), 0.0, 1.0)
            p = np.zeros(count)
            p[j] += 1.0 - share
            p[i] += share
            value = p @ utility - load_weight * (count * (p @ p) - 1.0)
            if value > best:
                best, chosen = value, p
    return chosen


def _constant(task: Task, values: np.ndarray, *, stochastic: bool, temperature: float = 1.0) -> Router:
    router = task.new_router(0, kind="constant")
    router.stochastic = stochastic
    scorer = router.scorer
    assert isinstance(scorer, ConstantScorer)
    with torch.no_grad():
        scorer.logits.copy_(task.rule.lift(torch.from_numpy(values), temperature))
    return router.eval()
