"""Rules and gates of queueing: some read the queues, some do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from envs import Core, QueueingCore
from envs.reward import utility

from ...problems.queueing.problem import QueueingProblem
from ...routing import ConstantScorer, Hard, Router
from ..gates.softmax_gate import METHOD as SOFTMAX_GATE
from ..method import Fit, Method, NoHyperparameters, Run
from .index_router import index_router, with_weights

__all__ = [
    "METHODS",
    "PowerOfTwo",
    "RandomExpert",
    "RoundRobin",
    "best_single",
    "least_wait",
    "shortest_queue",
    "softmax_gate",
    "static_gate",
]


@dataclass(kw_only=True)
class RandomExpert:
    """Sends each request to an expert drawn uniformly.

    Attributes:
        seed: random seed of the draws, which restart with every core.
    """

    seed: int

    def start(self, core: Core) -> None:
        """Restart the random draws."""
        self._experts = core.experts
        self._generator = torch.Generator().manual_seed(self.seed)

    def act(self, observation: Tensor) -> Tensor:
        """Return the experts [B] int64 of observations [B, O]."""
        return torch.randint(self._experts, (len(observation),), generator=self._generator)


class RoundRobin:
    """Sends the requests to the experts in turn."""

    def start(self, core: Core) -> None:
        """Keep the core: its number of requests gives the next expert."""
        assert isinstance(core, QueueingCore)
        self._core = core

    def act(self, observation: Tensor) -> Tensor:
        """Return the experts [B] int64 of observations [B, O]."""
        return self._core.state.step % self._core.experts


@dataclass(kw_only=True)
class PowerOfTwo:
    """Draws two experts and sends the request to the one with fewer requests for each replica.

    Attributes:
        shortest_queue: scores the experts by their requests.
        seed: random seed of the draws, which restart with every core.

    Source: Mitzenmacher 2001, https://doi.org/10.1109/71.963420.
    """

    shortest_queue: Router
    seed: int

    def start(self, core: Core) -> None:
        """Restart the random draws."""
        self._generator = torch.Generator().manual_seed(self.seed)

    def act(self, observation: Tensor) -> Tensor:
        """Return the experts [B] int64 of observations [B, D + 3 N + 6] float32."""
        features = self.shortest_queue.features
        scores = self.shortest_queue.scores(observation[:, :features], observation[:, features:])
        drawn = torch.rand(scores.shape, generator=self._generator).topk(2, dim=-1).indices
        return drawn.gather(1, scores.gather(1, drawn).argmax(dim=-1, keepdim=True)).squeeze(1)


def best_single(problem: QueueingProblem) -> Router:
    """Return the constant router to the expert with the highest mean utility without queues on training rows.

    Args:
        problem: its training rows and compute weight are used, not its queues.
    """
    train = problem.table.part("train")
    compute = train.cost.mean(axis=0) / problem.units.compute
    means = {"quality": train.quality.mean(axis=0), "compute": compute}
    best = int(utility(means, {"compute": problem.objective.compute_weight}).argmax())
    assert train.features is not None
    scorer = ConstantScorer(train.features.shape[1], len(problem.experts))
    scorer.logits[best] = 1.0
    return Router(scorer, Hard(), problem.experts, fallback=best).eval()


def shortest_queue(problem: QueueingProblem) -> Router:
    """Return the router to the expert with the fewest requests, waiting and at work, for each replica.

    Args:
        problem: with one case.
    """
    return with_weights(index_router(problem), {"jobs": 1.0})


def least_wait(problem: QueueingProblem) -> Router:
    """Return the router to the expert with the shortest expected wait.

    Args:
        problem: with one case.
    """
    return with_weights(index_router(problem), {"wait": 1.0})


def static_gate(problem: QueueingProblem) -> Router:
    """Return the router by predicted quality minus compute; it ignores the queues.

    Args:
        problem: with one case.
    """
    weights = {"quality": 1.0, "compute": problem.objective.compute_weight}
    return with_weights(index_router(problem), weights)


def softmax_gate(problem: QueueingProblem, hyperparameters: Any, run: Run) -> Router:
    """Return the softmax gate of the routing problem on the same table; it ignores the queues.

    Args:
        problem: its table and compute weight are used.
        hyperparameters: of the gate of routing.
        run: seed, callback and checkpoint.
    """
    return SOFTMAX_GATE.fit(problem.routing(), hyperparameters, run)


def _seedless(rule: Callable[[QueueingProblem], Any]) -> Fit:
    """Return the fit of a deterministic rule."""

    def fit(problem: QueueingProblem, hyperparameters: NoHyperparameters, run: Run) -> Any:
        return rule(problem)

    return fit


def _power_of_two(problem: QueueingProblem, hyperparameters: NoHyperparameters, run: Run) -> PowerOfTwo:
    return PowerOfTwo(shortest_queue=shortest_queue(problem), seed=run.seed)


def _round_robin(problem: QueueingProblem) -> RoundRobin:
    return RoundRobin()


def _random(problem: QueueingProblem, hyperparameters: NoHyperparameters, run: Run) -> RandomExpert:
    return RandomExpert(seed=run.seed)


METHODS = (
    Method(
        name="least_wait",
        family="baseline",
        fit=_seedless(least_wait),
        about="the shortest expected wait",
    ),
    Method(
        name="shortest_queue",
        family="baseline",
        fit=_seedless(shortest_queue),
        about="the fewest requests for each replica",
    ),
    Method(
        name="power_of_two",
        family="baseline",
        fit=_power_of_two,
        about="the shorter of two random queues (Mitzenmacher 2001)",
    ),
    Method(
        name="round_robin",
        family="baseline",
        fit=_seedless(_round_robin),
        about="one expert after the other",
    ),
    Method(
        name="random",
        family="baseline",
        fit=_random,
        about="every expert with equal probability",
    ),
    Method(
        name="best_single",
        family="baseline",
        fit=_seedless(best_single),
        about="one expert for every request",
    ),
    Method(
        name="static_gate",
        family="gate",
        fit=_seedless(static_gate),
        about="ridge: predicted quality minus compute; ignores the queues",
    ),
    replace(
        SOFTMAX_GATE,
        fit=softmax_gate,
        about="mixture trained by its task loss; ignores the queues",
        selections=(),
        holds_budget=False,
    ),
)
