"""Policy search: the weights of a caching policy by the cross-entropy method.

A normal distribution over the weights is moved to the best of its draws, all of which play the same requests
(common random numbers), with noise that fades so that it does not close too soon. It begins at the tuned
rule of foresight; of the means that it passes, that rule among them, the best on validation is kept.

Source: Szita, Lorincz 2006, Learning Tetris using the noisy cross-entropy method,
https://doi.org/10.1162/neco.2006.18.12.2936.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...problems.caching.cache_episodes import Weights, utilities
from ...problems.caching.problem import CachingProblem
from ...routing.policies.caching_policy import ANSWER_INPUTS, CachingPolicy
from .cache_rules import foresight, tuned

__all__ = ["SearchHyperparameters", "search"]


@dataclass(frozen=True, kw_only=True)
class SearchHyperparameters:
    """Settings of the search.

    Attributes:
        population: draws a generation.
        elite: of them, the best, that the distribution moves to.
        generations: of draws.
        streams: episodes of training rows that each draw plays.
        pace: how far the distribution moves.
    """

    population: int = 32
    elite: int = 8
    generations: int = 24
    streams: int = 8
    pace: float = 0.7


def search(
    problem: CachingProblem,
    share: float,
    settings: SearchHyperparameters,
    seed: int,
    tell: Callable[[int, float], None] = lambda generation, best: None,
    start: CachingPolicy | None = None,
) -> CachingPolicy:
    """Search the weights for one size of GPU memory.

    Args:
        problem: the tables and beliefs.
        share: of the bytes that is resident.
        settings: of the search.
        seed: of the draws and the episodes.
        tell: is told generations done, and the best utility of the last one.
        start: where to begin; the tuned rule of foresight if None.
    """
    policy = start or foresight(problem, share)
    generator = torch.Generator().manual_seed(seed)
    split, unit = len(ANSWER_INPUTS), problem.configs[share].wait_weight
    mean = torch.cat([policy.answer, policy.keep])
    of_answer = [0.1, 0.3 * unit, 0.1, 0.1, 0.1, 0.1, 0.3, 2.0]
    scale = torch.tensor([*of_answer, 0.5, 0.5, 0.5, 0.5, 1.0])
    deviation, kept = scale.clone(), [mean]
    for generation in range(settings.generations):
        noise = torch.randn(settings.population, len(mean), generator=generator)
        drawn = mean + deviation * noise
        drawn[0] = mean
        earned = utilities(
            problem,
            share,
            "train",
            policy,
            Weights(drawn[:, :split], drawn[:, split:]),
            streams=settings.streams,
            seed=(seed + 1) * 10_000 + generation * settings.streams,
        )
        elite = drawn[earned.topk(settings.elite).indices]
        mean = torch.lerp(mean, elite.mean(dim=0), settings.pace)
        fading = 0.2 * scale * max(0.0, 1.0 - 2.0 * generation / settings.generations)
        deviation = torch.lerp(deviation, elite.std(dim=0), settings.pace) + settings.pace * fading
        if generation % 4 == 3:
            kept.append(mean)
        tell(generation + 1, float(earned.max()))
    means = torch.stack(kept)
    return tuned(problem, share, Weights(means[:, :split], means[:, split:]))
