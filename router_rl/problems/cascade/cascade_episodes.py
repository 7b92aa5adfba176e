"""Play cascades on every query of some rows, through the environment, greedily."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from envs.cascade import CascadeConfig, CascadeCore, CascadeTable

from ..problem import Played

__all__ = ["Trip", "play", "travel"]

Actions = Callable[[Tensor], Tensor]


class Trip(NamedTuple):
    """What B episodes did.

    Attributes:
        reward, quality, compute: [B] float32, summed over the steps.
        steps: [B, L + 1] int64, the actions taken, -1 after the end.
    """

    reward: Tensor
    quality: Tensor
    compute: Tensor
    steps: Tensor


def travel(actions: Actions, table: CascadeTable, config: CascadeConfig, weight: float, rows: Tensor) -> Trip:
    """Play one episode on each of some queries.

    Args:
        actions: observations [B, O] to actions [B].
        table: the outcomes.
        config: what is allowed.
        weight: utility per unit of compute.
        rows: [B] int64.
    """
    core = CascadeCore(table, config, len(rows))
    seen = core.begin(rows, weight)
    reward, quality, compute = (torch.zeros(len(rows)) for _ in range(3))
    going = torch.ones(len(rows), dtype=torch.bool)
    taken: list[Tensor] = []
    while bool(going.any()):
        with torch.inference_mode():
            chosen = actions(seen)
        step = core.step(chosen)
        taken.append(torch.where(going, chosen, -1))
        for total, part in (
            (reward, step.reward),
            (quality, step.parts["quality"]),
            (compute, step.parts["compute"]),
        ):
            total += part * going
        going = going & ~step.terminated
        seen = core.observation()
    return Trip(reward, quality, compute, torch.stack(taken, dim=-1))


def play(actions: Actions, table: CascadeTable, config: CascadeConfig, weight: float) -> Played:
    """What a policy earns on every query of a table."""
    experts = table.outcomes.experts
    trip = travel(actions, table, config, weight, torch.arange(table.outcomes.queries))
    asked = ((trip.steps >= 0) & (trip.steps < experts)).sum(dim=-1)
    found = {"quality": trip.quality, "compute": trip.compute, "asked": asked.float()}
    parts = {name: part.numpy() for name, part in found.items()}
    # The tail of what is spent, and the share of queries that came to the end without an answer.
    unanswered = (trip.steps.amax(dim=-1) < experts).float().mean()
    facts = {f"compute_p{at}": float(trip.compute.quantile(at / 100.0)) for at in (50, 95, 99)}
    return Played(utility=trip.reward.numpy(), parts=parts, facts={**facts, "unanswered": float(unanswered)})
