"""LinUCB: select by the upper confidence bound of a ridge regression per expert (Li et al. 2010, alg. 1).

    e_t = argmax_e  theta_e . x_t + alpha sqrt(x_t^T A_e^-1 x_t),    theta_e = A_e^-1 b_e

with disjoint parameters. In the paper A starts as the identity; here its multiple is a hyperparameter, and
feedback arrives in batches (see `bandit.py`). The returned router is greedy in the means.

Source: A Contextual-Bandit Approach to Personalized News Article Recommendation,
https://arxiv.org/abs/1003.0146.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experts.io.value_range import Count, NonNegative

from ...problems.routing.problem import RoutingProblem
from ...routing import Router
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .bandit import train_bandit

__all__ = ["METHOD", "SPACE", "LinUCBHyperparameters", "fit"]


@dataclass(frozen=True, kw_only=True)
class LinUCBHyperparameters(Hyperparameters):
    """Hyperparameters of LinUCB.

    Attributes:
        alpha: width of the confidence bound, in standard deviations.
        penalty: L2 penalty on the weights of standardised features.
        passes: epochs over the training queries; always 1 under bandit feedback.
        batch: decisions between updates of the posterior.
    """

    alpha: NonNegative = 0.5
    penalty: NonNegative = 1.0
    passes: Count = 1
    batch: Count = 32


SPACE = {
    "alpha": (0.1, 0.25, 0.5, 1.0, 2.0),
    "penalty": (1.0, 10.0, 100.0),
    "passes": (1, 3),
}


def fit(problem: RoutingProblem, hyperparameters: LinUCBHyperparameters, run: Run) -> Router:
    """Run LinUCB on the training rows and return the greedy router."""

    def explore(mean: Tensor, deviation: Tensor, generator: torch.Generator) -> Tensor:
        return mean + hyperparameters.alpha * deviation

    return train_bandit(problem, hyperparameters, run, explore)


METHOD = Method(
    name="linucb",
    family="baseline",
    fit=fit,
    hyperparameters=LinUCBHyperparameters,
    space=SPACE,
    about="upper confidence bound bandit (Li et al. 2010)",
)
