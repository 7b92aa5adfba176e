"""Run caching policies: one policy through the observation, or many candidates on the same requests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.caching import CachingCore

from ..measure import Measurement
from ..problem import Policy

__all__ = ["CacheEpisodes", "run_episodes"]

_MEANS = ("quality", "compute", "wait_s")


class CacheEpisodes(NamedTuple):
    """What happened in one episode of each of B lanes.

    Attributes:
        measurement: utility and parts [B], means over the requests of a lane: `quality`, `compute`, `wait_s`
            (seconds) and `loaded_gb` (10^9 bytes moved to GPU memory). Facts: the 50th, 95th and 99th
            percentile of the waits in seconds, and the share of requests that waited.
        resident: at each request, [B, N] bool, the experts in GPU memory or being loaded.
        answered: at each request, [B] int64, the expert that answered.
    """

    measurement: Measurement
    resident: list[Tensor]
    answered: list[Tensor]


def run_episodes(policy: Policy, core: CachingCore) -> CacheEpisodes:
    """Run one episode in every lane, through the observation.

    Args:
        policy: observations [B, D + 5 N] to actions [B, 2].
        core: at the start of an episode.
    """
    totals: dict[str, Tensor] = {}
    waits: list[Tensor] = []
    resident: list[Tensor] = []
    answered: list[Tensor] = []
    share = torch.zeros(core.lanes, core.experts)
    policy.start(core)
    for _ in range(core.config.window):
        resident.append(core.state.resident)
        with torch.inference_mode():
            actions = policy.act(core.observation())
        answered.append(actions[:, 0])
        step = core.step(actions)
        waits.append(step.parts["wait_s"])
        share += step.parts["share"]
        for name in _MEANS:
            totals[name] = totals.get(name, 0.0) + step.parts[name]
        totals["loaded_gb"] = totals.get("loaded_gb", 0.0) + step.parts["loaded_bytes"] / 1e9
        totals["utility"] = totals.get("utility", 0.0) + step.reward
    means = {name: (total / core.config.window).numpy() for name, total in totals.items()}
    seconds = torch.stack(waits).flatten().numpy()
    facts = {f"wait_p{at}": float(np.percentile(seconds, at)) for at in (50, 95, 99)}
    facts["waited"] = float((seconds > 1e-9).mean())
    measurement = Measurement(
        utility=means.pop("utility"),
        parts=means,
        facts=facts,
        share=(share / core.config.window).numpy(),
    )
    return CacheEpisodes(measurement, resident, answered)
