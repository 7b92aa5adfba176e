"""Regression data of `priced_pg`, and its held-out evaluation on folds that no part of it was fitted to.

A policy is evaluated by the utility of its greedy choices at several compute weights. At most weights of a
wide range, all queries go to the most expensive expert or all go to the cheapest. The weights are therefore
spaced evenly by mean compute, not on a logarithmic scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from envs.reward import utility

from ...problems.cross_fitting import Fold, held_out
from ...problems.routing.problem import RoutingProblem
from ...routing import PricedScorer
from .regressions import (
    CostRegression,
    Regressions,
    fit_cost_regression,
    fit_quality_regressions,
    stacking_weights,
)

__all__ = [
    "HeldOutEvaluation",
    "RegressionData",
    "evaluation_weights",
    "held_out_evaluations",
    "weights_by_spend",
]

_FOLDS = 5  # if the table has none
_N_WEIGHTS = 9  # compute weights at which a policy is evaluated
_N_CANDIDATES = 128  # candidates for these weights


@dataclass(frozen=True, kw_only=True, eq=False)
class RegressionData:
    """Outcomes of T rows and the regressions fitted to them; all float64.

    Attributes:
        quality: [T, N], quality of each expert.
        compute: [T, N], compute of each expert.
        mean: [N], mean compute of each expert.
        quality_regressions: regressions of the quality of each expert.
        cost_regression: regression of the compute of each expert, relative to its mean.
    """

    quality: Tensor
    compute: Tensor
    mean: Tensor
    quality_regressions: Regressions
    cost_regression: CostRegression

    @classmethod
    def of(cls, problem: RoutingProblem, scorer: PricedScorer, folds: Sequence[Fold]) -> RegressionData:
        """Fit the regressions to the training rows.

        Args:
            problem: holds the training rows.
            scorer: standardises the features.
            folds: folds of the training rows, for out-of-fold predictions.
        """
        outcomes = problem.outcomes()
        compute = outcomes.compute.double()
        return cls(
            quality=outcomes.quality.double(),
            compute=compute,
            mean=compute.mean(dim=0),
            quality_regressions=fit_quality_regressions(problem, scorer, folds),
            cost_regression=fit_cost_regression(problem, scorer, folds),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutEvaluation:
    """A fold: regressions fitted without it, and their predictions on its M held-out rows; all float64.

    Attributes:
        data: the rows outside the fold and the regressions fitted to them.
        rows: [M] int, indices of the held-out rows among all training rows.
        predicted_quality: [M, N, K], quality predicted by each of the K regressions.
        predicted_cost: [M, N], predicted compute.
        quality: [M, N], observed quality.
        compute: [M, N], observed compute.
        weights: [J], compute weights.
    """

    data: RegressionData
    rows: np.ndarray
    predicted_quality: Tensor
    predicted_cost: Tensor
    quality: Tensor
    compute: Tensor
    weights: Tensor

    def utility(self, alpha: Tensor, bias: Tensor) -> np.ndarray:
        """Return the held-out utility of the greedy choices, averaged over the compute weights.

        Args:
            alpha: [K] float64, weights of the quality regressions.
            bias: [N] float64, added to the predicted quality of each expert.

        Returns:
            [M] float64.
        """
        predicted = self.data.quality_regressions.mean + bias + self.predicted_quality @ alpha
        mean = torch.zeros(len(predicted), dtype=torch.float64, device=predicted.device)
        for weight in self.weights:
            choice = (predicted - weight * self.predicted_cost).argmax(dim=1, keepdim=True)
            each = utility({"quality": self.quality, "compute": self.compute}, {"compute": weight})
            mean += each.gather(1, choice).squeeze(1) / len(self.weights)
        return mean.cpu().numpy()


def held_out_evaluations(
    problem: RoutingProblem, scorer: PricedScorer, folds: Sequence[Fold], weights: Tensor, seed: int
) -> list[HeldOutEvaluation]:
    """Refit the regressions without each fold and predict its rows; one evaluation per fold.

    Args:
        problem: holds the training rows; out-of-fold features are replaced by those fitted without the fold.
        scorer: standardises the features.
        folds: folds of the training rows; those of the out-of-fold features if there are any.
        weights: [J] float64, compute weights to evaluate at.
        seed: seed of the inner folds, if the table has none.
    """
    # Constraints on means need not hold on fewer rows.
    unconstrained = problem.with_objective(replace(problem.objective, max_cost=None, budget=None))
    evaluations: list[HeldOutEvaluation] = []
    for (part, away), (_, held) in zip(unconstrained.folds(folds), folds, strict=True):
        data = RegressionData.of(part, scorer, held_out(part.train, _FOLDS, seed))
        outcomes = part.replaced(train=away).outcomes()
        z = ((outcomes.features - scorer.shift) * scorer.scale).double()
        quality, cost = data.quality_regressions, data.cost_regression
        evaluation = HeldOutEvaluation(
            data=data,
            rows=held,
            predicted_quality=torch.einsum("td,knd->tnk", z, quality.weight) + quality.bias.T,
            predicted_cost=data.mean * (z @ cost.weight.T + cost.bias),
            quality=outcomes.quality.double(),
            compute=outcomes.compute.double(),
            weights=weights,
        )
        evaluations.append(evaluation)
    return evaluations


def evaluation_weights(data: RegressionData, low: float, high: float) -> Tensor:
    """Return compute weights [J] at which the stacked regressions spend evenly spaced amounts of compute.

    Args:
        data: training rows and regressions.
        low: lowest candidate.
        high: highest candidate.
    """
    regressions = data.quality_regressions
    quality = regressions.mean + regressions.out_of_fold @ stacking_weights(regressions, data.quality)
    return weights_by_spend(quality, data.mean * data.cost_regression.out_of_fold, data.compute, low, high)


def weights_by_spend(quality: Tensor, cost: Tensor, compute: Tensor, low: float, high: float) -> Tensor:
    """Return increasing weights [J] at which `argmax(quality - weight * cost)` spends evenly spaced amounts.

    Args:
        quality: [T, N] float64, predicted quality of each expert.
        cost: [T, N] float64, predicted compute of each expert.
        compute: [T, N] float64, observed compute of each expert.
        low: lowest candidate.
        high: highest candidate.
    """
    candidates = torch.from_numpy(np.geomspace(low, high, _N_CANDIDATES)).to(quality)
    choices = [(quality - weight * cost).argmax(dim=1, keepdim=True) for weight in candidates]
    spend = torch.stack([compute.gather(1, choice).mean() for choice in choices])
    position = torch.arange(1, _N_WEIGHTS + 1, device=quality.device) / (_N_WEIGHTS + 1.0)
    targets = spend[0] + (spend[-1] - spend[0]) * position
    return candidates[(spend - targets[:, None]).abs().argmin(dim=1)].sort().values
