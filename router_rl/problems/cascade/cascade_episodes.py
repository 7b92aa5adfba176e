"""Run a cascade policy on queries through the environment, one episode each, and measure what it earns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from envs.cascade import CascadeConfig, CascadeCore, CascadeTable

from ..measure import Measurement
from ..problem import Policy

__all__ = ["Episodes", "measure_episodes", "run_episodes"]


class Episodes(NamedTuple):
    """What happened in B episodes.

    Attributes:
        reward, quality, compute: [B] float32, summed over the steps.
        steps: [B, L] int64, the actions taken, -1 after the end.
        share: [B, N] float32, how the episode divided among the experts that it asked; rows sum to 1, or to
            0 where no expert was asked.
    """

    reward: Tensor
    quality: Tensor
    compute: Tensor
    steps: Tensor
    share: Tensor


def run_episodes(
    policy: Policy, table: CascadeTable, config: CascadeConfig, weight: float, rows: Tensor
) -> Episodes:
    """Run one episode on each of some queries, with all experts up.

    Args:
        policy: observations [B, O] to actions [B].
        table: the outcomes.
        config: which calls are valid.
        weight: utility per unit of compute.
        rows: [B] int64, the queries.
    """
    core = CascadeCore(table, config, len(rows))
    observation = core.begin(rows, weight)
    policy.start(core)
    reward, quality, compute = (torch.zeros(len(rows)) for _ in range(3))
    asked = torch.zeros(len(rows), table.outcomes.experts)
    running = torch.ones(len(rows), dtype=torch.bool)
    steps: list[Tensor] = []
    while bool(running.any()):
        with torch.inference_mode():
            actions = policy.act(observation)
        step = core.step(actions)
        steps.append(torch.where(running, actions, -1))
        for total, part in (
            (reward, step.reward),
            (quality, step.parts["quality"]),
            (compute, step.parts["compute"]),
        ):
            total += part * running
        asked += step.parts["share"] * running.unsqueeze(-1)
        running = running & ~step.terminated
        observation = core.observation()
    share = asked / asked.sum(dim=-1, keepdim=True).clamp(min=1.0)
    return Episodes(reward, quality, compute, torch.stack(steps, dim=-1), share)


def measure_episodes(
    policy: Policy, table: CascadeTable, config: CascadeConfig, weight: float
) -> Measurement:
    """Return the utility and its parts of a policy on every query of a table.

    Args:
        policy: observations [B, O] to actions [B].
        table: the outcomes of T queries.
        config: which calls are valid.
        weight: utility per unit of compute.

    Returns:
        utility [T] float32; parts `quality`, `compute` and `asked` (number of experts asked); facts: the
        50th, 95th and 99th percentile of compute, and the share of queries without an answer.
    """
    experts = table.outcomes.experts
    episodes = run_episodes(policy, table, config, weight, torch.arange(table.outcomes.queries))
    asked = ((episodes.steps >= 0) & (episodes.steps < experts)).sum(dim=-1)
    parts = {"quality": episodes.quality, "compute": episodes.compute, "asked": asked.float()}
    facts = {f"compute_p{at}": float(episodes.compute.quantile(at / 100.0)) for at in (50, 95, 99)}
    facts["unanswered"] = float((episodes.steps.amax(dim=-1) < experts).float().mean())
    return Measurement(
        utility=episodes.reward.numpy(),
        parts={name: part.numpy() for name, part in parts.items()},
        facts=facts,
        share=episodes.share.numpy(),
    )
