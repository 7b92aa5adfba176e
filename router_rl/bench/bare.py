"""Throughput of a bare torch training loop: the upper limit that training methods are compared with."""

from __future__ import annotations

import time

import torch

from ..methods.agents.exact_pg import ExactPGHyperparameters
from ..methods.agents.expectation import RewardTable
from ..methods.training_loop import adamw
from ..problems.routing.problem import RoutingProblem
from ..routing.selection.log_softmax import log_softmax

__all__ = ["bare_decisions_per_second"]


def bare_decisions_per_second(problem: RoutingProblem, decisions: int, seed: int = 0) -> float:
    """Decisions per second of forward pass, backward pass and optimizer step on one fixed batch.

    Nothing else is timed: no rows are fetched, no actions are sampled, nothing is validated. The batch size
    and the other hyperparameters are those of `exact_pg`.

    Args:
        problem: gives the scorer and the first training rows.
        decisions: how many to train on, rounded down to whole batches.
        seed: of the initial weights.
    """
    hyperparameters = ExactPGHyperparameters()
    router = problem.new_router(seed)
    outcomes = problem.outcomes()
    x = outcomes.features[: hyperparameters.batch].clone()
    utility = RewardTable(outcomes, problem.objective.compute_weight).utility[: hyperparameters.batch].clone()
    optimizer = adamw(router.parameters(), hyperparameters.learning_rate, hyperparameters.weight_decay)
    steps = max(1, decisions // len(x))
    start = time.perf_counter()
    for _ in range(steps):
        log_p = log_softmax(router.scorer(x))
        p = log_p.exp()
        loss = -((p * utility).sum(dim=-1) - hyperparameters.entropy * (p * log_p).sum(dim=-1)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    if problem.device.type == "cuda":
        torch.cuda.synchronize()
    return steps * len(x) / (time.perf_counter() - start)
