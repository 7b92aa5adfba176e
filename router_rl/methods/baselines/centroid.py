"""Nearest-centroid router: each query goes to the expert whose queries it is most similar to. Closed form.

An expert's queries are those it is best on. Its centroid is their mean, weighted by the gain over a random
expert (a query on which all experts are equal has no weight). With one spherical variance s^2 for all
experts,

    z_e = (2 c_e . x - |c_e|^2) / (2 s^2) + prior * log(share_e),

which is linear in x, so the router can be folded into a stock gate. With prior 1 it is linear discriminant
analysis.

Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd ed., eq. 4.10, with
covariance s^2 I; centroids are shrunk to the common mean as in 18.2 (there by a threshold, here
proportionally).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from envs.reward import expert_utility
from experts.io.value_range import NonNegative, Range

from ...problems.routing.problem import RoutingProblem
from ...routing import LinearScorer, Router
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .ridge import lifted_weights

__all__ = ["METHOD", "SPACE", "CentroidHyperparameters", "fit", "memberships", "nearest_mean"]


@dataclass(frozen=True, kw_only=True)
class CentroidHyperparameters(Hyperparameters):
    """Hyperparameters of the centroid router.

    Attributes:
        shrinkage: shrinkage of the centroids to the mean of all queries, from 0 to below 1.
        prior: weight of the log prior, each expert's share of the gain.
    """

    shrinkage: Annotated[float, Range(0.0, 1.0, below=True)] = 0.0
    prior: NonNegative = 1.0


SPACE = {"shrinkage": (0.0, 0.2, 0.4, 0.6, 0.8), "prior": (0.0, 0.5, 1.0)}


def fit(problem: RoutingProblem, hyperparameters: CentroidHyperparameters, run: Run) -> Router:
    """Compute the centroids, in float64, and return the router."""
    router = problem.new_router(run.seed, kind="linear")
    scorer = router.scorer
    assert isinstance(scorer, LinearScorer)
    outcomes = problem.outcomes()
    x = ((outcomes.features - scorer.shift) * scorer.scale).double()
    utility = expert_utility(outcomes, problem.objective.compute_weight).double()
    weight, bias = nearest_mean(x, memberships(utility), hyperparameters.shrinkage, hyperparameters.prior)
    weight, bias = lifted_weights(problem.rule, x, weight, bias, temperature=1.0)
    with torch.no_grad():
        scorer.weight.copy_(weight)
        scorer.bias.copy_(bias)
    return router.eval()


def memberships(utility: Tensor) -> Tensor:
    """Return the gain of each query's best expert over a random one, 0 for others; ties go to the lowest id.

    Args:
        utility: [T, N] float.

    >>> memberships(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]))
    tensor([[0.5000, 0.0000],
            [0.0000, 0.0000],
            [0.0000, 0.5000]])
    """
    best = utility.argmax(dim=-1, keepdim=True)
    gain = utility.gather(-1, best) - utility.mean(dim=-1, keepdim=True)
    return torch.zeros_like(utility).scatter(-1, best, gain)


def nearest_mean(x: Tensor, member: Tensor, shrinkage: float, prior: float) -> tuple[Tensor, Tensor]:
    """Return weight [N, D] and bias [N], float64, of the nearest-centroid score.

    A class without members scores below every other class on every row of x.

    Args:
        x: [T, D] float64.
        member: [T, N] float64, weight of each query in each class, at least 0.
        shrinkage: from 0 (no shrinkage) to 1 (all centroids at the mean of x).
        prior: weight of the log prior.
    """
    total = member.sum(dim=0)
    nonempty = total > 0
    if not nonempty.any():  # all experts are equal on every query
        return torch.zeros(member.shape[1], x.shape[1]).to(x), torch.zeros(member.shape[1]).to(x)
    mean = x.mean(dim=0)
    centroid = (member.T @ x) / total.clamp(min=1e-12).unsqueeze(-1)
    centroid = torch.where(nonempty.unsqueeze(-1), mean + (1.0 - shrinkage) * (centroid - mean), mean)
    distance = torch.cdist(x, centroid).square()  # [T, N]
    variance = (member * distance).sum() / (total.sum() * x.shape[1])
    weight = centroid / variance.clamp(min=1e-12)
    bias = -0.5 * (centroid * weight).sum(dim=-1) + prior * (total / total.sum()).clamp(min=1e-12).log()
    score = x @ weight.T + bias
    lowest = score[:, nonempty].min()
    below = lowest - (x @ weight[~nonempty].T).max() - 1.0 if (~nonempty).any() else lowest
    return weight, torch.where(nonempty, bias, below)


METHOD = Method(
    name="centroid",
    family="baseline",
    fit=fit,
    hyperparameters=CentroidHyperparameters,
    space=SPACE,
    about="nearest centroid of each expert's best queries",
    sparse=True,
)
