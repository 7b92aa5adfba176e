"""A caching rule with all weights tuned, by the cross-entropy method on training episodes.

It is a baseline, as index rules of queues are: constants of a rule are chosen by mean utility.

A normal distribution over the weights moves to the best of its draws, which all run on the same requests
(common random numbers). Noise that decays to 0 is added to its standard deviation, so that it does not
converge too soon. The search starts at the tuned foresight rule. It returns the best on validation of that
rule and of the distribution's mean after every fourth generation.

Source: Szita, Lorincz 2006, Learning Tetris using the noisy cross-entropy method,
https://doi.org/10.1162/neco.2006.18.12.2936.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from experts import InputError
from experts.io.value_range import Count, Share, Size

from ...problems.caching.problem import CachingProblem
from ...problems.measure import Measurement
from ...problems.problem import ActionPolicy
from ...routing.policies.caching_policy import ANSWER_INPUTS, CachingPolicy
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .cache_rules import exported, tuned_foresight
from .candidates import Weights, best_weights, utilities, validation_utilities

__all__ = ["METHOD", "SearchHyperparameters", "fit", "search"]

Report = Callable[[int, float, "Tensor | None"], None]

_PERIOD = 4  # generations between two candidates for the result


@dataclass(frozen=True, kw_only=True)
class SearchHyperparameters(Hyperparameters):
    """Hyperparameters of the search.

    Attributes:
        population: number of draws per generation.
        elite: number of the best draws that the distribution moves to.
        generations: number of generations.
        streams: number of episodes of training rows that each draw runs.
        pace: step size from the old mean and deviation to those of the best draws, in (0, 1].
    """

    population: Size = 32
    elite: Count = 8
    generations: Count = 24
    streams: Size = 8
    pace: Share = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.elite > self.population:
            raise InputError(
                "method.elite", self.elite, "is above the population", f"use 1 to {self.population}"
            )


def fit(problem: CachingProblem, hyperparameters: SearchHyperparameters, run: Run) -> ActionPolicy:
    """Return the policy found for one size of GPU memory, starting from the tuned foresight rule."""
    key = ("rule", "foresight", problem.case.values["resident_share"])
    start = problem.cached(key, lambda: tuned_foresight(problem))
    best: list[Measurement] = []

    def report(generation: int, utility: float, mean: Tensor | None) -> None:
        if mean is not None and run.callback is not None:
            measured = validation_utilities(problem, start, _weights(mean.unsqueeze(0))).squeeze(1)
            if not best or float(measured.mean()) > best[0].means()["utility"]:
                best[:] = [Measurement(utility=measured.numpy(), parts={})]
        message = f"best utility of the generation {utility:.4f}"
        validation = best[0] if best and mean is not None else None
        run.report(generation, hyperparameters.generations, message, validation)

    return exported(search(problem, hyperparameters, seed=run.seed, start=start, report=report))


def search(
    problem: CachingProblem,
    hyperparameters: SearchHyperparameters,
    *,
    seed: int,
    start: CachingPolicy,
    report: Report = lambda generation, utility, mean: None,
) -> CachingPolicy:
    """Return the best weights of a caching policy that the search finds.

    Args:
        problem: with one case.
        hyperparameters: of the search.
        seed: random seed of the draws and the episodes.
        start: initial mean of the distribution.
        report: is called after each generation with the number of generations done, the highest training
            utility of the last one, and the distribution's mean [13] float32 if it is a candidate, else None.
    """
    generator = torch.Generator().manual_seed(seed)
    unit = problem.options.wait_weight
    mean = torch.cat([start.answer, start.keep])
    answer_scale = [0.1, 0.3 * unit, 0.1, 0.1, 0.1, 0.1, 0.3, 2.0]
    scale = torch.tensor([*answer_scale, 0.5, 0.5, 0.5, 0.5, 1.0])
    deviation, means = scale.clone(), [mean]
    for generation in range(hyperparameters.generations):
        noise = torch.randn(hyperparameters.population, len(mean), generator=generator)
        drawn = mean + deviation * noise
        drawn[0] = mean
        utility = utilities(
            problem,
            "train",
            start,
            _weights(drawn),
            streams=hyperparameters.streams,
            seed=(seed + 1) * 10_000 + generation * hyperparameters.streams,
        )
        elite = drawn[utility.topk(hyperparameters.elite).indices]
        mean = torch.lerp(mean, elite.mean(dim=0), hyperparameters.pace)
        fading = 0.2 * scale * max(0.0, 1.0 - 2.0 * generation / hyperparameters.generations)
        deviation = torch.lerp(deviation, elite.std(dim=0), hyperparameters.pace)
        deviation = deviation + hyperparameters.pace * fading
        candidate = mean if generation % _PERIOD == _PERIOD - 1 else None
        if candidate is not None:
            means.append(candidate)
        report(generation + 1, float(utility.max()), candidate)
    return best_weights(problem, _weights(torch.stack(means)))


def _weights(rows: Tensor) -> Weights:
    """Return the candidates of rows [P, 13]."""
    split = len(ANSWER_INPUTS)
    return Weights(rows[:, :split], rows[:, split:])


METHOD = Method(
    name="cross_entropy",
    family="baseline",
    fit=fit,
    hyperparameters=SearchHyperparameters,
    space={"population": (32, 64), "elite": (8, 12), "streams": (8, 16), "pace": (0.4, 0.7)},
    about="the weights of foresight, tuned by the cross-entropy method",
)
