"""Transitions a second through each batched core, and what Stable-Baselines3 PPO gets through its VecEnv."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from torch import Tensor

from envs import Core, SB3VecEnv, build_caching, build_cascade, build_core, build_queueing
from envs.core import ActionSpace
from experts import OutcomeTable

from .learner_clock import spread

__all__ = ["CORES", "GOAL", "transitions_row"]

GOAL = 100_000  # transitions a second on one core
_LANES = 1024
_PPO_LANES, _PPO_STEPS = 64, 64


def _cascade(table: OutcomeTable, lanes: int) -> Core:
    """A made table has no confidences; any will do to time looking at them."""
    if table.confidence is None and table.probabilities is None:
        table = replace(table, confidence=np.full_like(table.quality, 0.5))
    return build_cascade(table, lanes)


CORES: dict[str, Callable[[OutcomeTable, int], Core]] = {
    "routing": build_core,
    "cascade": _cascade,
    "queueing": build_queueing,
    "caching": build_caching,
}


def transitions_row(
    env: str, table: OutcomeTable, *, repeats: int, seconds: float, lanes: int = _LANES
) -> dict[str, Any]:
    """Time one environment with random actions, observations and new episodes among them, on one thread.

    Args:
        env: a name in `CORES`.
        table: what is played on, its training rows.
        repeats: of each timing.
        seconds: each takes at least.
        lanes: of the batched core; PPO has 64 and SB3's defaults, but for rollouts of 64 steps and
            minibatches of 1,024.
    """
    torch.set_num_threads(1)
    paces = [_pace(CORES[env](table, lanes), seconds, seed) for seed in range(repeats)]
    learned = [_ppo_pace(CORES[env](table, _PPO_LANES), seconds, seed) for seed in range(repeats)]
    median = spread(paces).median or 0.0
    return {
        "env": env,
        "lanes": lanes,
        "per_second": median,
        "quartiles": spread(paces).quartiles,
        "goal": GOAL,
        "met": median >= GOAL,
        "sb3_ppo_per_second": spread(learned).median,
    }


def _pace(core: Core, seconds: float, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    actions = _drawn(core.action_space, (64, core.lanes), generator)
    core.reset(seed)
    played, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for action in actions:
            step = core.step(action)
            core.clear(step.terminated)
            core.observation()
        played += len(actions) * core.lanes
    return played / (time.perf_counter() - began)


def _drawn(space: ActionSpace, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Random actions, [64, B] or [64, B, k]."""
    if isinstance(space, spaces.MultiDiscrete):
        return torch.stack(
            [torch.randint(int(size), shape, generator=generator) for size in space.nvec], dim=-1
        )
    assert isinstance(space, spaces.Discrete)
    return torch.randint(int(space.n), shape, generator=generator)


def _ppo_pace(core: Core, seconds: float, seed: int) -> float:
    """Decisions a second of training, rollouts and updates."""
    rollout = _PPO_LANES * _PPO_STEPS
    learner = PPO("MlpPolicy", SB3VecEnv(core), n_steps=_PPO_STEPS, batch_size=1024, seed=seed, device="cpu")
    played, began = 0, time.perf_counter()
    while played == 0 or time.perf_counter() - began < seconds:
        learner.learn(rollout, reset_num_timesteps=False)
        played += rollout
    return played / (time.perf_counter() - began)
