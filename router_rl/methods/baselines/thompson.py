"""Linear Thompson sampling: select by a sample of each expert's posterior (Agrawal and Goyal 2013, alg. 1).

    e_t = argmax_e  theta~_e . x_t,    theta~_e ~ N(A_e^-1 b_e, v^2 A_e^-1)

The paper has one parameter for all arms; here each expert has its own, as in LinUCB, and feedback arrives in
batches (see `bandit.py`). Parameters are resampled for every decision, so only `theta~_e . x_t` matters:
independent normals with mean `theta_e . x_t` and variance `v^2 x_t^T A_e^-1 x_t`, which are sampled directly.

Source: Thompson Sampling for Contextual Bandits with Linear Payoffs, https://arxiv.org/abs/1209.3352.
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

__all__ = ["METHOD", "SPACE", "ThompsonHyperparameters", "fit"]


@dataclass(frozen=True, kw_only=True)
class ThompsonHyperparameters(Hyperparameters):
    """Hyperparameters of Thompson sampling.

    Attributes:
        v: scale of the posterior's standard deviation.
        penalty: L2 penalty on the weights of standardised features.
        passes: epochs over the training queries; always 1 under bandit feedback.
        batch: decisions between updates of the posterior.
    """

    v: NonNegative = 0.3
    penalty: NonNegative = 1.0
    passes: Count = 1
    batch: Count = 32


SPACE = {
    "v": (0.05, 0.1, 0.3, 0.5, 1.0),
    "penalty": (1.0, 10.0, 100.0),
    "passes": (1, 3),
}


def fit(problem: RoutingProblem, hyperparameters: ThompsonHyperparameters, run: Run) -> Router:
    """Run Thompson sampling on the training rows and return the greedy router."""

    def explore(mean: Tensor, deviation: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        return mean + hyperparameters.v * deviation * noise

    return train_bandit(problem, hyperparameters, run, explore)


METHOD = Method(
    name="thompson",
    family="baseline",
    fit=fit,
    hyperparameters=ThompsonHyperparameters,
    space=SPACE,
    about="Thompson sampling bandit (Agrawal & Goyal 2013)",
)
