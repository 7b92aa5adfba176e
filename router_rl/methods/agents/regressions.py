"""Cross-fitted linear regressions of each expert's quality and cost.

The regressions of quality are the out-of-fold predictions among the features, and ridge regressions on the
other features under several penalties. Stacking combines them with non-negative weights (Breiman 1996,
https://doi.org/10.1007/BF00117832). The mean over the experts is removed, because it does not affect routing.

Ridge regressions do not use the out-of-fold predictions as inputs. The prediction of a training row was
fitted to all other folds, including rows that are held out here, so a regression on it would leak their
outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from scipy.optimize import nnls
from torch import Tensor

from ...problems.cross_fitting import Fold
from ...problems.routing.problem import RoutingProblem
from ...routing import PricedScorer
from ..baselines.ridge import solve_ridges

__all__ = [
    "CostRegression",
    "Regressions",
    "fit_cost_regression",
    "fit_quality_regressions",
    "stacking_weights",
]

_PENALTIES = (0.1, 0.3, 1.0, 10.0)


class Regressions(NamedTuple):
    """K linear functions of the standardised features, centred over the experts.

    Attributes:
        out_of_fold: [T, N, K] float64, out-of-fold predictions on the training rows.
        weight: [K, N, D] float64, coefficients.
        bias: [K, N] float64, intercepts.
        mean: [N] float64, mean quality of each expert, centred; not included in the predictions.
        n_out_of_fold: how many of the K are out-of-fold predictions among the features; they come first.
    """

    out_of_fold: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    n_out_of_fold: int


class CostRegression(NamedTuple):
    """Compute that a query takes of each expert, as a multiple of the expert's mean.

    Attributes:
        out_of_fold: [T, N] float64, out-of-fold predictions on the training rows.
        weight: [N, D] float64, coefficients.
        bias: [N] float64, intercepts.
    """

    out_of_fold: Tensor
    weight: Tensor
    bias: Tensor


def fit_quality_regressions(
    problem: RoutingProblem, scorer: PricedScorer, folds: Sequence[Fold]
) -> Regressions:
    """Fit regressions of each expert's quality relative to the mean of all experts.

    Args:
        problem: holds the training rows and says which features are out-of-fold predictions.
        scorer: standardises the features.
        folds: (fitted rows, held-out rows) of each fold.
    """
    outcomes = problem.outcomes()
    z = ((outcomes.features - scorer.shift) * scorer.scale).double()
    quality = _centred(outcomes.quality.double())
    mean = quality.mean(dim=0)
    predictions: list[Tensor] = []
    weights: list[Tensor] = []
    biases: list[Tensor] = []

    def append(weight: Tensor, bias: Tensor, predicted: Tensor) -> None:
        weights.append(weight - weight.mean(dim=0))
        biases.append(bias - bias.mean() - mean)
        predictions.append(_centred(predicted) - mean)

    for columns in _columns(problem):
        index = torch.tensor(columns, device=problem.device)
        weight = torch.zeros(len(columns), z.shape[1], dtype=torch.float64, device=problem.device)
        scale = scorer.scale[index].double()
        weight[torch.arange(len(columns)), index] = torch.where(scale > 0, 1.0 / scale, 0.0)
        bias = scorer.shift[index].double()
        append(weight, bias, z @ weight.T + bias)
    other = _without_out_of_fold(problem, z)
    for solved, predicted in zip(
        solve_ridges(other, quality, _PENALTIES), _out_of_fold(other, quality, folds), strict=True
    ):
        append(*solved, predicted)
    stack = torch.stack(predictions, dim=-1), torch.stack(weights), torch.stack(biases)
    return Regressions(*stack, mean, len(_columns(problem)))


def fit_cost_regression(
    problem: RoutingProblem, scorer: PricedScorer, folds: Sequence[Fold]
) -> CostRegression:
    """Fit a ridge regression of each row's compute relative to its expert's mean.

    Args:
        problem: holds the training rows.
        scorer: standardises the features.
        folds: (fitted rows, held-out rows) of each fold.

    Returns:
        the regression with the lowest out-of-fold error; the constant 1 if none is better than that.
    """
    outcomes = problem.outcomes()
    z = ((outcomes.features - scorer.shift) * scorer.scale).double()
    mean = outcomes.compute.double().mean(dim=0)
    ratio = torch.where(mean > 0, outcomes.compute.double() / mean.clamp(min=1e-300), 1.0)
    no_weight = torch.zeros_like(scorer.weight).double()
    best = CostRegression(torch.ones_like(ratio), no_weight, torch.ones_like(mean))
    best_error = (ratio - 1.0).square().mean()
    solved = solve_ridges(z, ratio, _PENALTIES)
    for (weight, bias), predicted in zip(solved, _out_of_fold(z, ratio, folds), strict=True):
        error = (ratio - predicted).square().mean()
        if error < best_error * (1.0 - 1e-6):
            best, best_error = CostRegression(predicted, weight, bias), error
    return best


def stacking_weights(regressions: Regressions, quality: Tensor) -> Tensor:
    """Return weights [K] >= 0 that combine the out-of-fold predictions by non-negative least squares.

    Args:
        regressions: K regressions of the training rows.
        quality: [T, N] float64, quality of each expert on these rows.
    """
    predicted = regressions.out_of_fold.flatten(0, 1).cpu().numpy()
    target = (_centred(quality) - regressions.mean).flatten().cpu().numpy()
    alpha: Any = nnls(predicted, target)[0]
    return torch.from_numpy(alpha).to(quality)


def _columns(problem: RoutingProblem) -> tuple[tuple[int, ...], ...]:
    return () if problem.out_of_fold is None else problem.out_of_fold.columns


def _without_out_of_fold(problem: RoutingProblem, z: Tensor) -> Tensor:
    """Return the features [T, D] with the out-of-fold predictions set to 0, so that they get no weight."""
    other = z.clone()
    for columns in _columns(problem):
        other[:, list(columns)] = 0.0
    return other


def _out_of_fold(z: Tensor, target: Tensor, folds: Sequence[Fold]) -> Tensor:
    """Return out-of-fold predictions [P, T, N] of ridge regressions under each penalty."""
    predicted = target.new_empty(len(_PENALTIES), *target.shape)
    for fitted, held in folds:
        for place, (weight, bias) in enumerate(solve_ridges(z[fitted], target[fitted], _PENALTIES)):
            predicted[place, held] = z[held] @ weight.T + bias
    return predicted


def _centred(quality: Tensor) -> Tensor:
    return quality - quality.mean(dim=1, keepdim=True)
