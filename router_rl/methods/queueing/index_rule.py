"""The index rule and the simpler rules in it, with weights tuned on the training half of the process.

The index is in `router_rl.routing.QueueScorer`. All candidates of a round play the same requests, arrivals
and outages at once, each in lanes of its own, so that their differences are not noise (common random
numbers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from envs import QueueingCore

from ...problems.queueing.queue_measurement import play_queues
from ...problems.queueing.queue_task import QueueTask
from ...routing import QueueScorer, Router
from ...routing.scorers.queue_scorer import TERMS

__all__ = ["IndexHyperparameters", "fit_index", "with_weights"]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexHyperparameters:
    """How the weights are searched.

    Attributes:
        terms: those whose weights are searched, the pace's under a budget alone; the quality's is 1, the
            others' 0.
        candidates: weights tried in the first round.
        lanes: episodes each plays.
        validation_lanes: episodes that choose among the best eighth.
        rounds: rounds that look around the best, half as far each time.
    """

    terms: tuple[str, ...] = ("compute", "lateness", "wait", "jobs", "pace")
    candidates: int = 48
    lanes: int = 6
    validation_lanes: int = 96
    rounds: int = 2


def fit_index(task: QueueTask, settings: IndexHyperparameters, seed: int = 0) -> Router:
    """Draw weights log-uniformly, look around the best, and keep the best on validation."""
    router = task.router()
    known = TERMS if task.config.budget is not None else TERMS[:-1]  # without a budget there is no pace
    names = [name for name in settings.terms if name in known]
    generator = torch.Generator().manual_seed(seed)
    centre = torch.tensor([_guess(task, name) for name in names])
    count = settings.candidates
    draws = centre * 10.0 ** (3.0 * torch.rand(count, len(centre), generator=generator) - 1.5)
    draws[torch.rand(draws.shape, generator=generator) < 0.15] = 0.0  # to do without one may be best
    draws[0] = centre
    draws = _full(draws, names)
    best = draws
    for number in range(settings.rounds + 1):
        if number:
            around = best.repeat(count // len(best) - 1, 1)
            width = 0.5**number
            noise = torch.randn(len(around), len(known), generator=generator)
            around[:, : len(known)] *= 10.0 ** (width * noise)
            draws = torch.cat([best, _only(around, names)])
        scores = _play_all(task, router, draws, "train", settings.lanes, seed + number)
        best = draws[scores.argsort(descending=True)[: max(4, count // 8)]]
    scores = _play_all(task, router, best, "validation", settings.validation_lanes, seed)
    return with_weights(router, dict(zip(TERMS, best[scores.argmax()].tolist(), strict=True)))


def with_weights(router: Router, weights: dict[str, float]) -> Router:
    """The router with these weights of its terms, and 0 for those not named."""
    scorer = cast(QueueScorer, router.scorer)
    scorer.weights.copy_(torch.tensor([weights.get(name, 0.0) for name in TERMS]))
    return router


def _guess(task: QueueTask, name: str) -> float:
    if name == "compute":
        return task.config.compute_weight or 0.1
    suffered = task.config.lateness_weight + task.config.miss_weight
    return {"lateness": suffered or 0.1, "wait": 0.1, "jobs": 0.01, "pace": 0.3}[name]


def _full(draws: Tensor, names: Sequence[str]) -> Tensor:
    """Weights [M, 6] of all terms from those of some [M, K]; quality weighs 1."""
    whole = torch.zeros(len(draws), len(TERMS))
    whole[:, 0] = 1.0
    whole[:, [TERMS.index(name) for name in names]] = draws
    return whole


def _only(draws: Tensor, names: Sequence[str]) -> Tensor:
    """Weights [M, 6] with those of other terms put back."""
    return _full(draws[:, [TERMS.index(name) for name in names]], names)


def _play_all(task: QueueTask, router: Router, draws: Tensor, split: str, lanes: int, seed: int) -> Tensor:
    """Mean utility [M] of each weights [M, 6], all on the same episodes."""
    scorer, count = cast(QueueScorer, router.scorer), len(draws)
    core = task.core(split, lanes * count, seed=1_000 * seed, group=count)
    weights = draws.repeat(lanes, 1).unsqueeze(-1)

    def act(core: QueueingCore, seen: Tensor) -> Tensor:
        return (scorer.terms(seen) @ weights).squeeze(-1).argmax(dim=-1)

    return torch.from_numpy(play_queues(core, act).utility).reshape(lanes, count).mean(dim=0)
