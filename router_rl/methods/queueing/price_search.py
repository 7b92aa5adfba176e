"""The index rule with prices that the cross-entropy method tunes on training episodes.

It is a baseline: constants of a rule are chosen by mean utility of whole episodes; it needs no copies of the
environment. The prices are those of `rollout_iteration`. A normal distribution over the prices moves to the
best of its draws, which all run on the same requests, arrivals and outages (common random numbers). The best
on validation is kept of the index rule and of the distribution's mean after every fourth generation.

Source: Szita, Lorincz 2006, Learning Tetris using the noisy cross-entropy method,
https://doi.org/10.1162/neco.2006.18.12.2936.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from experts import InputError
from experts.io.value_range import Count, Positive, Share, Size

from ...problems.queueing.problem import QueueingProblem
from ...routing import Router
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .index_router import scorer_of
from .index_rule import strongest_index
from .weight_search import IndexHyperparameters, candidate_utility

__all__ = ["METHOD", "PriceHyperparameters", "fit_prices"]

_PERIOD = 4  # generations between two candidates for the result


@dataclass(frozen=True, kw_only=True)
class PriceHyperparameters(Hyperparameters):
    """Hyperparameters of the search for prices.

    Attributes:
        index: hyperparameters of the index rule that the search starts from.
        population: number of draws per generation.
        elite: number of the best draws that the distribution moves to.
        generations: number of generations.
        lanes: number of training episodes that each draw runs.
        deviation: initial standard deviation of every price, in utility.
        pace: step size from the old mean and deviation to those of the best draws, in (0, 1].
        validation_lanes: number of validation episodes.
    """

    index: IndexHyperparameters = field(default_factory=IndexHyperparameters)
    population: Size = 48
    elite: Count = 10
    generations: Count = 16
    lanes: Size = 6
    deviation: Positive = 0.03
    pace: Share = 0.7
    validation_lanes: Size = 96

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.elite > self.population:
            fix = f"use 1 to {self.population}"
            raise InputError("method.elite", self.elite, "is above the population", fix)


def fit_prices(problem: QueueingProblem, hyperparameters: PriceHyperparameters, run: Run) -> Router:
    """Return the index rule with the best prices found.

    Args:
        problem: with one case.
        hyperparameters: of the search.
        run: seed and callback.
    """
    router = strongest_index(problem, hyperparameters.index, run.seed, hyperparameters.validation_lanes)
    scorer = scorer_of(router)
    generator = torch.Generator().manual_seed(run.seed)

    def utility_of(prices: Tensor, split: str, lanes: int, seed: int) -> Tensor:
        each = prices.repeat(lanes, 1)

        def actions(observation: Tensor) -> Tensor:
            return scorer.scores(observation, each).argmax(dim=-1)

        return candidate_utility(problem, len(prices), actions, split, lanes=lanes, seed=seed)

    mean = torch.zeros_like(scorer.prices)
    deviation, means = torch.full_like(mean, hyperparameters.deviation), [mean]
    for generation in range(hyperparameters.generations):
        drawn = mean + deviation * torch.randn(hyperparameters.population, len(mean), generator=generator)
        drawn[0] = mean
        seed = 1_000 * (run.seed + 1) + generation
        utility = utility_of(drawn, "train", hyperparameters.lanes, seed)
        elite = drawn[utility.topk(hyperparameters.elite).indices]
        mean = torch.lerp(mean, elite.mean(dim=0), hyperparameters.pace)
        fading = (
            0.2 * hyperparameters.deviation * max(0.0, 1.0 - 2.0 * generation / hyperparameters.generations)
        )
        deviation = torch.lerp(deviation, elite.std(dim=0), hyperparameters.pace) + fading
        if generation % _PERIOD == _PERIOD - 1:
            means.append(mean)
        message = f"best utility of the generation {float(utility.max()):.4f}"
        run.report(generation + 1, hyperparameters.generations, message)
    candidates = torch.stack(means)
    utility = utility_of(candidates, "validation", hyperparameters.validation_lanes, 500)
    scorer.prices.copy_(candidates[utility.argmax()])
    return router


METHOD = Method(
    name="cross_entropy",
    family="baseline",
    fit=fit_prices,
    hyperparameters=PriceHyperparameters,
    space={"deviation": (0.01, 0.03, 0.1), "lanes": (6, 12)},
    about="index_rule with prices by the cross-entropy method",
)
