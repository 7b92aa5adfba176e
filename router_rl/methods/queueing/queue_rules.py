"""The rules that a policy must beat: some see the queues, some do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from envs import QueueingCore

from ...problems.objective import Objective
from ...problems.problem import Played
from ...problems.queueing.queue_measurement import Act, act_of
from ...problems.queueing.queue_task import QueueTask
from ...routing import Router
from ..fit import fit
from .index_rule import with_weights

__all__ = [
    "QueuePolicy",
    "best_single",
    "least_wait",
    "power_of_two",
    "random_expert",
    "round_robin",
    "routed",
    "shortest_queue",
    "softmax_gate",
    "static_gate",
]


@dataclass(frozen=True, kw_only=True)
class QueuePolicy:
    """A fitted method.

    Attributes:
        begin: makes what acts, anew for every measurement, so that draws are the same each time.
        router: what is exported, if the policy is one.
        played: what it earned by load and split, so that a rule that knows no seed is measured once.
    """

    begin: Callable[[], Act]
    router: Router | None = None
    played: dict[tuple[float, str], Played] = field(default_factory=dict)


def routed(router: Router) -> QueuePolicy:
    """A router's choices."""
    return QueuePolicy(begin=lambda: act_of(router), router=router)


def random_expert(task: QueueTask, seed: int) -> QueuePolicy:
    """Any expert, all as likely."""

    def begin() -> Act:
        generator = torch.Generator().manual_seed(seed)
        return lambda core, seen: torch.randint(core.experts, (core.lanes,), generator=generator)

    return QueuePolicy(begin=begin)


def round_robin(task: QueueTask, seed: int) -> QueuePolicy:
    """One expert after the other."""
    return QueuePolicy(begin=lambda: lambda core, seen: core.state.step % core.experts)


def power_of_two(task: QueueTask, seed: int) -> QueuePolicy:
    """The one with fewer requests a replica, of two drawn at random.

    Source: Mitzenmacher 2001, https://doi.org/10.1109/71.963420.
    """
    jobs = shortest_queue(task, seed).router
    assert jobs is not None

    def begin() -> Act:
        generator = torch.Generator().manual_seed(seed)

        def act(core: QueueingCore, seen: Tensor) -> Tensor:
            scores = jobs.scores(seen[:, : jobs.features], seen[:, jobs.features :])
            drawn = torch.rand(scores.shape, generator=generator).topk(2, dim=-1).indices
            return drawn.gather(1, scores.gather(1, drawn).argmax(dim=-1, keepdim=True)).squeeze(1)

        return act

    return QueuePolicy(begin=begin)


def best_single(task: QueueTask, seed: int) -> QueuePolicy:
    """The expert of the highest mean utility on the training rows, queues apart."""
    train = task.table.part("train")
    compute = train.cost.mean(axis=0) / task.units.compute
    best = int((train.quality.mean(axis=0) - task.config.compute_weight * compute).argmax())
    return QueuePolicy(begin=lambda: lambda core, seen: torch.full((core.lanes,), best))


def shortest_queue(task: QueueTask, seed: int) -> QueuePolicy:
    """The fewest requests, waiting and at work, for each replica."""
    return routed(with_weights(task.router(), {"jobs": 1.0}))


def least_wait(task: QueueTask, seed: int) -> QueuePolicy:
    """The shortest expected wait."""
    return routed(with_weights(task.router(), {"wait": 1.0}))


def static_gate(task: QueueTask, seed: int) -> QueuePolicy:
    """The highest predicted quality less compute, whatever the queues."""
    return routed(with_weights(task.router(), {"quality": 1.0, "compute": task.config.compute_weight}))


def softmax_gate(task: QueueTask, seed: int) -> QueuePolicy:
    """The learned softmax gate of the static task, whatever the queues."""
    objective = Objective(compute_weight=task.config.compute_weight)
    gate = fit("softmax_gate", task.table, objective, seed=seed)

    def act(core: QueueingCore, seen: Tensor) -> Tensor:
        return gate(seen[:, : gate.features]).experts[:, 0]

    return QueuePolicy(begin=lambda: act)
