"""Policy search: the weights of a caching policy by the cross-entropy method.

A normal distribution over the weights moves to the best of its draws, which all run on the same requests
(common random numbers). Noise that falls to 0 is added to its deviation, so that it does not converge too
soon. It starts at the tuned foresight rule. The best on validation of that rule and of the means it passes
is returned.

Source: Szita, Lorincz 2006, Learning Tetris using the noisy cross-entropy method,
https://doi.org/10.1162/neco.2006.18.12.2936.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...problems.caching.problem import CachingProblem
from ...problems.problem import ActionPolicy
from ...routing.policies.caching_policy import ANSWER_INPUTS, CachingPolicy
from ..method import Method, Run
from .cache_rules import exported, tuned_foresight
from .candidates import Weights, best_weights, utilities

__all__ = ["METHOD", "SearchHyperparameters", "fit", "search"]


@dataclass(frozen=True, kw_only=True)
class SearchHyperparameters:
    """Hyperparameters of the search.

    Attributes:
        population: draws a generation.
        elite: number of the best draws that the distribution moves to.
        generations: number of generations.
        streams: episodes of training rows that each draw runs.
        pace: fraction of the way that the distribution moves.
    """

    population: int = 32
    elite: int = 8
    generations: int = 24
    streams: int = 8
    pace: float = 0.7


def fit(problem: CachingProblem, hyperparameters: SearchHyperparameters, run: Run) -> ActionPolicy:
    """Search the weights for one size of GPU memory, from the tuned foresight rule."""
    key = ("rule", "foresight", problem.case.values["resident_share"])
    start = problem.cached(key, lambda: tuned_foresight(problem))

    def report(generation: int, best: float) -> None:
        message = f"best utility of the generation {best:.4f}"
        run.report(generation, hyperparameters.generations, message)

    return exported(search(problem, hyperparameters, seed=run.seed, start=start, report=report))


def search(
    problem: CachingProblem,
    hyperparameters: SearchHyperparameters,
    *,
    seed: int,
    start: CachingPolicy,
    report: Callable[[int, float], None] = lambda generation, best: None,
) -> CachingPolicy:
    """Search the weights of a caching policy.

    Args:
        problem: with one case.
        hyperparameters: of the search.
        seed: of the draws and the episodes.
        start: the first mean of the distribution.
        report: is passed the number of generations done, and the best utility of the last one.
    """
    generator = torch.Generator().manual_seed(seed)
    split, unit = len(ANSWER_INPUTS), problem.options.wait_weight
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
            Weights(drawn[:, :split], drawn[:, split:]),
            streams=hyperparameters.streams,
            seed=(seed + 1) * 10_000 + generation * hyperparameters.streams,
        )
        elite = drawn[utility.topk(hyperparameters.elite).indices]
        mean = torch.lerp(mean, elite.mean(dim=0), hyperparameters.pace)
        fading = 0.2 * scale * max(0.0, 1.0 - 2.0 * generation / hyperparameters.generations)
        deviation = torch.lerp(deviation, elite.std(dim=0), hyperparameters.pace)
        deviation = deviation + hyperparameters.pace * fading
        if generation % 4 == 3:
            means.append(mean)
        report(generation + 1, float(utility.max()))
    candidates = torch.stack(means)
    return best_weights(problem, Weights(candidates[:, :split], candidates[:, split:]))


METHOD = Method(
    name="cross_entropy",
    family="rl",
    fit=fit,
    hyperparameters=SearchHyperparameters,
    space={"population": (32, 64), "elite": (8, 12), "streams": (8, 16), "pace": (0.4, 0.7)},
    about="policy search by the cross-entropy method, from the foresight rule (Szita & Lorincz 2006)",
)
