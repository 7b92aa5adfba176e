"""What a policy of regressions is fitted to, and honest judges of it: folds that nothing in it has seen.

A policy is judged by what its greedy choices earn at compute weights where something is decided. At most
weights of a wide range everybody gets the dearest expert or everybody the cheapest, so the weights are spread
evenly by what is spent, not by their logarithm.
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
from .regressions import Demand, Regressions, demanded, regressed, stacked

__all__ = ["Ground", "Judge", "decisive_weights", "even_weights", "judges_of"]

_FOLDS = 5  # where the table has none
_JUDGED = 9  # compute weights at which a policy is judged
_GRID = 128  # weights among which those are sought


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """What a policy of regressions is fitted to; all float64, T rows.

    Attributes:
        quality, compute: [T, N].
        mean: [N], mean compute of each expert.
        found, demand: the regressions.
    """

    quality: Tensor
    compute: Tensor
    mean: Tensor
    found: Regressions
    demand: Demand

    @classmethod
    def of(cls, problem: RoutingProblem, scorer: PricedScorer, folds: Sequence[Fold]) -> Ground:
        """Fit the regressions to a task's training rows."""
        outcomes = problem.outcomes()
        compute = outcomes.compute.double()
        return cls(
            quality=outcomes.quality.double(),
            compute=compute,
            mean=compute.mean(dim=0),
            found=regressed(problem, scorer, folds),
            demand=demanded(problem, scorer, folds),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """A fold: the ground of the rows seen, and M rows held out as it tells of them; all float64.

    Attributes:
        ground: of the rows seen.
        rows: [M], the rows held out among all training rows.
        said: [M, N, K], what the regressions say of them.
        price: [M, N], what they are thought to take.
        quality, compute: [M, N], what they earn and take.
        weights: [J], compute weights.
    """

    ground: Ground
    rows: np.ndarray
    said: Tensor
    price: Tensor
    quality: Tensor
    compute: Tensor
    weights: Tensor

    def utility(self, alpha: Tensor, bias: Tensor) -> np.ndarray:
        """Utility [M] of the greedy choices, mean over the compute weights."""
        worth = self.ground.found.mean + bias + self.said @ alpha
        earned = torch.zeros(len(worth), dtype=torch.float64, device=worth.device)
        for weight in self.weights:
            choice = (worth - weight * self.price).argmax(dim=1, keepdim=True)
            each = utility({"quality": self.quality, "compute": self.compute}, {"compute": weight})
            earned += each.gather(1, choice).squeeze(1) / len(self.weights)
        return earned.cpu().numpy()


def judges_of(
    problem: RoutingProblem, scorer: PricedScorer, folds: Sequence[Fold], weights: Tensor, seed: int
) -> list[Judge]:
    """A judge for each fold: regressions are fitted again with the fold away, and tell of it.

    Args:
        problem: training rows; readouts among its features are taken as they are with the fold away.
        scorer: standardises the features.
        folds: of the training rows; those of the readouts where there are any.
        weights: [J], compute weights to judge at.
        seed: of the folds inside the folds, where the table has none.
    """
    free = replace(problem.objective, max_cost=None, budget=None)  # whose means fewer rows need not share
    found: list[Judge] = []
    for (part, away), (_, held) in zip(problem.with_objective(free).folds(folds), folds, strict=True):
        ground = Ground.of(part, scorer, held_out(part.train, _FOLDS, seed))
        outcomes = part.replaced(train=away).outcomes()
        z = ((outcomes.features - scorer.shift) * scorer.scale).double()
        judge = Judge(
            ground=ground,
            rows=held,
            said=torch.einsum("td,knd->tnk", z, ground.found.weight) + ground.found.bias.T,
            price=ground.mean * (z @ ground.demand.weight.T + ground.demand.bias),
            quality=outcomes.quality.double(),
            compute=outcomes.compute.double(),
            weights=weights,
        )
        found.append(judge)
    return found


def decisive_weights(ground: Ground, low: float, high: float) -> Tensor:
    """Compute weights [J] that are spread by what the stacked regressions spend."""
    worth = ground.found.mean + ground.found.unseen @ stacked(ground.found, ground.quality)
    return even_weights(worth, ground.mean * ground.demand.unseen, ground.compute, low, high)


def even_weights(worth: Tensor, price: Tensor, compute: Tensor, low: float, high: float) -> Tensor:
    """Rising weights [J] at which `argmax(worth - weight * price)` spends evenly less and less.

    Args:
        worth: [T, N] float64, what each expert is thought to be worth.
        price: [T, N] float64, what it is thought to take.
        compute: [T, N] float64, what it takes.
        low, high: where weights are sought.
    """
    asked = torch.from_numpy(np.geomspace(low, high, _GRID)).to(worth)
    chosen = [(worth - weight * price).argmax(dim=1, keepdim=True) for weight in asked]
    spent = torch.stack([compute.gather(1, choice).mean() for choice in chosen])
    place = torch.arange(1, _JUDGED + 1, device=worth.device) / (_JUDGED + 1.0)
    wanted = spent[0] + (spent[-1] - spent[0]) * place
    return asked[(spent - wanted[:, None]).abs().argmin(dim=1)].sort().values
