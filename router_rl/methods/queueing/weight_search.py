"""The search for the weights of a rule of queues, the same for every rule.

Candidates run on the same requests, arrivals and outages, each in lanes of its own, so that they differ by
more than noise (common random numbers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experts.io.value_range import Count, Size

from ...problems.problem import ActionPolicy
from ...problems.queueing.problem import QueueingProblem
from ...problems.queueing.queue_measurement import measure_queues
from ..hyperparameters import Hyperparameters

__all__ = ["IndexHyperparameters", "candidate_utility", "search_weights"]

# Candidates [M, K], split, episodes of each and seed, to their mean utility [M].
Utility = Callable[[Tensor, str, int, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class IndexHyperparameters(Hyperparameters):
    """Hyperparameters of the search for the weights of an index.

    Attributes:
        candidates: number of weights tried per iteration.
        lanes: number of training episodes of each candidate.
        validation_lanes: number of validation episodes that select among the best eighth.
        iterations: number of searches around the best candidates, each half as wide as the one before.
    """

    candidates: Count = 48
    lanes: Size = 6
    validation_lanes: Size = 96
    iterations: Count = 2


def candidate_utility(
    problem: QueueingProblem,
    count: int,
    actions: Callable[[Tensor], Tensor],
    split: str,
    *,
    lanes: int,
    seed: int,
) -> Tensor:
    """Return the mean utility [M] float64 of M candidates, on the same episodes for all.

    Args:
        problem: with one case.
        count: M.
        actions: maps observations of `lanes * M` lanes to experts; candidate m has the lanes m, M + m, ...
        split: rows that the episodes are drawn from.
        lanes: number of episodes of each candidate.
        seed: of the episodes.
    """
    core = problem.core(split, problem.case, lanes=lanes * count, seed=1_000 * seed, group=count)
    measured = measure_queues(core, ActionPolicy(actions=actions))
    return torch.from_numpy(measured.utility).reshape(lanes, count).mean(dim=0)


def search_weights(
    centre: Tensor,
    hyperparameters: IndexHyperparameters,
    seed: int,
    utility: Utility,
    *,
    columns: int | None = None,
    places: Sequence[int] | None = None,
) -> Tensor:
    """Draw weights log-uniformly, search around the best, and return the best on validation, [K].

    Args:
        centre: [K] first guess of each weight, the first candidate.
        hyperparameters: of the search.
        seed: of the candidates and of the training episodes.
        utility: measures candidates.
        columns: number of random numbers that an iteration draws for a candidate; K if None.
        places: which of them belong to the K weights; all if None.
    """
    generator = torch.Generator().manual_seed(seed)
    count, own = hyperparameters.candidates, list(range(len(centre)) if places is None else places)
    draws = centre * 10.0 ** (3.0 * torch.rand(count, len(centre), generator=generator) - 1.5)
    draws[torch.rand(draws.shape, generator=generator) < 0.15] = 0.0  # the best rule may lack a term
    draws[0] = centre
    best = draws
    for iteration in range(hyperparameters.iterations + 1):
        if iteration:
            near = best.repeat(count // len(best) - 1, 1)
            noise = torch.randn(len(near), columns or len(centre), generator=generator)
            draws = torch.cat([best, near * 10.0 ** (0.5**iteration * noise[:, own])])
        earned = utility(draws, "train", hyperparameters.lanes, seed + iteration)
        best = draws[earned.argsort(descending=True)[: max(4, count // 8)]]
    earned = utility(best, "validation", hyperparameters.validation_lanes, seed)
    return best[earned.argmax()]
