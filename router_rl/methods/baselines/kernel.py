"""Kernel smoother: an expert's score is its mean utility on all training queries, weighted by similarity.

Features are standardised and projected on their principal components. The bandwidth of the Gaussian kernel is
a factor times the distance to the 11th nearest training query; validation selects the factor. The router
stores every training query.

Source: Nadaraya 1964, https://doi.org/10.1137/1109020; Watson 1964, https://www.jstor.org/stable/25049340;
    Terrell and Scott 1992, https://doi.org/10.1214/aos/1176348768.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs.reward import expert_utility
from experts.io.value_range import Count, Positive

from ...problems.routing.problem import RoutingProblem
from ...routing import KernelScorer, Router
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .knn import leave_one_out

__all__ = ["METHOD", "SPACE", "KernelHyperparameters", "fit", "principal_components"]


@dataclass(frozen=True, kw_only=True)
class KernelHyperparameters(Hyperparameters):
    """Hyperparameters of the kernel smoother.

    Attributes:
        factor: bandwidth over the distance to the neighbour that sets it.
        components: number of principal components; all features if there are fewer.
        neighbours: which nearest training query sets the bandwidth.
    """

    factor: Positive = 0.35
    components: Count = 32
    neighbours: Count = 11


SPACE = {"factor": (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.7), "components": (16, 32, 64)}


def fit(problem: RoutingProblem, hyperparameters: KernelHyperparameters, run: Run) -> Router:
    """Store the training queries with each expert's utility; the logits are weighted mean utilities."""
    outcomes = problem.outcomes()
    utility = expert_utility(outcomes, problem.objective.compute_weight)
    values = problem.rule.lift(utility, temperature=0.0)
    inputs = outcomes.features.shape[1]
    scorer = KernelScorer(
        inputs,
        values.shape[1],
        outcomes.queries,
        min(hyperparameters.components, inputs),
        min(hyperparameters.neighbours, outcomes.queries),
        hyperparameters.factor,
    )
    router = problem.wrap(scorer)
    x = (outcomes.features.double() - scorer.shift) * scorer.scale
    with torch.no_grad():
        scorer.projection.copy_(principal_components(x, scorer.components))
    scorer.store(outcomes.features, values)
    return router.eval()


def principal_components(x: Tensor, count: int) -> Tensor:
    """Return the directions of largest variance, [count, D] float64, orthonormal rows.

    Args:
        x: [T, D] float64.
        count: 1 to D.
    """
    centred = x - x.mean(dim=0)
    _, vector = torch.linalg.eigh(centred.T @ centred / len(x))  # ascending eigenvalues
    return vector.T.flip(0)[:count]


METHOD = Method(
    name="kernel",
    family="baseline",
    fit=fit,
    hyperparameters=KernelHyperparameters,
    space=SPACE,
    about="similarity-weighted mean utility of training queries",
    sparse=True,
    leave_one_out=leave_one_out,
)
