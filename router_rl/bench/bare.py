"""The limit: a policy gradient's forward and backward pass and the optimizer's step, and nothing else."""

from __future__ import annotations

import time

import torch

from ..methods.agents.exact_pg import ExactPGSettings
from ..methods.agents.expectation import Payment
from ..methods.training_loop import adamw
from ..problems.routing.problem import Task
from ..routing.selection.log_softmax import log_softmax

__all__ = ["bare_steps_per_second"]


def bare_steps_per_second(task: Task, decisions: int, seed: int = 0) -> float:
    """Decisions a second of a loop over one fixed batch: no rows fetched, nothing drawn or measured.

    Args:
        task: its scorer and its first training rows; the batch, and the rest, is `exact_pg`'s.
        decisions: how many to go through.
        seed: of the initial weights.
    """
    settings = ExactPGSettings()
    router = task.new_router(seed)
    outcomes = task.outcomes()
    x = outcomes.features[: settings.batch].clone()
    utility = Payment(outcomes, task.objective.compute_weight).utility[: settings.batch].clone()
    optimizer = adamw(router.parameters(), settings.learning_rate, settings.weight_decay)
    steps = max(1, decisions // len(x))
    began = time.perf_counter()
    for _ in range(steps):
        log_p = log_softmax(router.scorer(x))
        p = log_p.exp()
        loss = -((p * utility).sum(dim=-1) - settings.entropy * (p * log_p).sum(dim=-1)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    if task.device.type == "cuda":
        torch.cuda.synchronize()
    return steps * len(x) / (time.perf_counter() - began)
