"""What a query is worth to each expert and takes of it, by linear regressions; of training rows out of fold.

Worth is told by the readouts among the features and by ridge regressions on the other features under several
penalties; they are mixed by non-negative weights (stacked regressions, Breiman 1996,
https://doi.org/10.1007/BF00117832). What all experts have in common no router can use and is left out.

The ridges do not see the readouts: a training row's readout was fitted to the rows of all other folds, those
now held out among them, so a regression on it would have seen what it is asked to tell.
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

__all__ = ["Demand", "Regressions", "demanded", "regressed", "stacked"]

_PENALTIES = (0.1, 0.3, 1.0, 10.0)


class Regressions(NamedTuple):
    """K linear functions of the standardised features, centred over the experts.

    Attributes:
        unseen: [T, N, K] float64, what each says of the training rows, out of fold.
        weight: [K, N, D] float64.
        bias: [K, N] float64.
        mean: [N] float64, what experts are worth over all rows; not part of the others.
        readouts: how many of the K are readouts; they come first.
    """

    unseen: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    out_of_fold: int


class Demand(NamedTuple):
    """What a query takes of each expert, as a multiple of what queries take on average.

    Attributes:
        unseen: [T, N] float64, of the training rows, out of fold.
        weight: [N, D] float64.
        bias: [N] float64.
    """

    unseen: Tensor
    weight: Tensor
    bias: Tensor


def regressed(problem: RoutingProblem, scorer: PricedScorer, folds: Sequence[Fold]) -> Regressions:
    """Regressions of how much better each expert is than all are on average.

    Args:
        problem: training rows, and which features are readouts.
        scorer: standardises the features.
        folds: rows seen and rows held out.
    """
    outcomes = problem.outcomes()
    z = ((outcomes.features - scorer.shift) * scorer.scale).double()
    quality = _centred(outcomes.quality.double())
    mean = quality.mean(dim=0)
    unseen: list[Tensor] = []
    weights: list[Tensor] = []
    biases: list[Tensor] = []

    def keep(weight: Tensor, bias: Tensor, said: Tensor) -> None:
        weights.append(weight - weight.mean(dim=0))
        biases.append(bias - bias.mean() - mean)
        unseen.append(_centred(said) - mean)

    for columns in _columns(problem):
        index = torch.tensor(columns, device=problem.device)
        weight = torch.zeros(len(columns), z.shape[1], dtype=torch.float64, device=problem.device)
        scale = scorer.scale[index].double()
        weight[torch.arange(len(columns)), index] = torch.where(scale > 0, 1.0 / scale, 0.0)
        bias = scorer.shift[index].double()
        keep(weight, bias, z @ weight.T + bias)
    own = _without_readouts(problem, z)
    for solved, said in zip(
        solve_ridges(own, quality, _PENALTIES), _out_of_fold(own, quality, folds), strict=True
    ):
        keep(*solved, said)
    stack = torch.stack(unseen, dim=-1), torch.stack(weights), torch.stack(biases)
    return Regressions(*stack, mean, len(_columns(problem)))


def demanded(problem: RoutingProblem, scorer: PricedScorer, folds: Sequence[Fold]) -> Demand:
    """A ridge regression of each row's compute over its expert's mean; all 1 where that tells no more."""
    outcomes = problem.outcomes()
    z = ((outcomes.features - scorer.shift) * scorer.scale).double()
    mean = outcomes.compute.double().mean(dim=0)
    demand = torch.where(mean > 0, outcomes.compute.double() / mean.clamp(min=1e-300), 1.0)
    found = Demand(torch.ones_like(demand), torch.zeros_like(scorer.weight).double(), torch.ones_like(mean))
    least = (demand - 1.0).square().mean()
    solved = solve_ridges(z, demand, _PENALTIES)
    for (weight, bias), said in zip(solved, _out_of_fold(z, demand, folds), strict=True):
        error = (demand - said).square().mean()
        if error < least * (1.0 - 1e-6):
            found, least = Demand(said, weight, bias), error
    return found


def stacked(found: Regressions, quality: Tensor) -> Tensor:
    """Weights [K] >= 0 by which the regressions explain how experts differ."""
    said = found.unseen.flatten(0, 1).cpu().numpy()
    wanted = (_centred(quality) - found.mean).flatten().cpu().numpy()
    alpha: Any = nnls(said, wanted)[0]
    return torch.from_numpy(alpha).to(quality)


def _columns(problem: RoutingProblem) -> tuple[tuple[int, ...], ...]:
    return () if problem.out_of_fold is None else problem.out_of_fold.columns


def _without_readouts(problem: RoutingProblem, z: Tensor) -> Tensor:
    """The features [T, D] with 0 where a readout stands: it gets no weight."""
    own = z.clone()
    for columns in _columns(problem):
        own[:, list(columns)] = 0.0
    return own


def _out_of_fold(z: Tensor, wanted: Tensor, folds: Sequence[Fold]) -> Tensor:
    """What ridge regressions say [P, T, N], under each penalty, of rows they have not seen."""
    said = wanted.new_empty(len(_PENALTIES), *wanted.shape)
    for seen, held in folds:
        for place, (weight, bias) in enumerate(solve_ridges(z[seen], wanted[seen], _PENALTIES)):
            said[place, held] = z[held] @ weight.T + bias
    return said


def _centred(quality: Tensor) -> Tensor:
    return quality - quality.mean(dim=1, keepdim=True)
