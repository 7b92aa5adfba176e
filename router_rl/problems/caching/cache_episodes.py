"""Play caching policies: many weights side by side on the same requests, or one policy as it is served."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.caching import CachingCore, memories

from ...routing.policies.caching_policy import CachingPolicy
from ..problem import Played
from .problem import CachingProblem

__all__ = ["Weights", "play_served", "utilities"]

Actions = Callable[[Tensor], Tensor]


class Weights(NamedTuple):
    """P candidates: `answer` [P, 8] and `keep` [P, 5] of `CachingPolicy`."""

    answer: Tensor
    keep: Tensor


def utilities(
    problem: CachingProblem,
    share: float,
    split: str,
    policy: CachingPolicy,
    weights: Weights,
    *,
    streams: int,
    seed: int,
) -> Tensor:
    """Mean utility [P] of candidates on the same requests.

    Args:
        problem: the tables and beliefs.
        share: of the bytes that is resident.
        split: rows to play on.
        policy: whose prices and masks hold.
        weights: P candidates.
        streams: episodes for each.
        seed: of the streams.
    """
    many = len(weights.answer)
    config, table = problem.configs[share], problem.rows[share, split]
    core = CachingCore(table, config, many * streams, seed=seed, group=many)
    answer, keep = weights.answer.repeat(streams, 1), weights.keep.repeat(streams, 1)
    chance, later, total = problem.chance[split], problem.later[split], torch.zeros(many * streams)
    for _ in range(config.window):
        state = core.state
        resident, wait, host, recent, often = memories(table, config, state)
        seen = (chance[state.row], later[state.row], resident, wait, host, recent, often)
        total += core.step(policy.choose(*seen, (answer, keep))).reward
    return total.view(streams, many).mean(dim=0) / config.window


def play_served(actions: Actions, core: CachingCore) -> tuple[Played, list[Tensor], list[Tensor]]:
    """Play one window in every lane through the observation.

    Returns:
        what was earned, a mean over the requests of each lane; who was resident [B, N] and who answered [B]
        at each request.
    """
    totals: dict[str, Tensor] = {}
    waited: list[Tensor] = []
    resident: list[Tensor] = []
    answered: list[Tensor] = []
    for _ in range(core.config.window):
        resident.append(core.state.resident)
        with torch.inference_mode():
            chosen = actions(core.observation())
        answered.append(chosen[:, 0])
        step = core.step(chosen)
        waited.append(step.parts["wait_s"])
        for name in ("quality", "compute", "wait_s"):
            totals[name] = totals.get(name, 0.0) + step.parts[name]
        totals["loaded_gb"] = totals.get("loaded_gb", 0.0) + step.parts["loaded_bytes"] / 1e9
        totals["utility"] = totals.get("utility", 0.0) + step.reward
    means = {name: (total / core.config.window).numpy() for name, total in totals.items()}
    seconds = torch.stack(waited).flatten().numpy()
    facts = {f"wait_p{at}": float(np.percentile(seconds, at)) for at in (50, 95, 99)}
    facts["waited"] = float((seconds > 1e-9).mean())
    return Played(utility=means.pop("utility"), parts=means, facts=facts), resident, answered
