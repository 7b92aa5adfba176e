"""Transitions per second of each batched environment, with random actions and under Stable-Baselines3 PPO."""

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

from envs import Core, SB3VecEnv, build_caching, build_cascade, build_queueing, build_routing
from envs.core import ActionSpace
from experts import OutcomeTable

from ..methods.agents.sb3_logger import without_log_folder
from .learner_clock import spread

__all__ = ["CORES", "GOAL", "transitions_row"]

GOAL = 100_000  # transitions per second on one thread
_LANES = 1024
_PPO_LANES, _PPO_STEPS = 64, 64


def _cascade(table: OutcomeTable, lanes: int) -> Core:
    """The core of a cascade; a table without confidences gets constant ones, which take as long to read."""
    if table.confidence is None and table.probabilities is None:
        table = replace(table, confidence=np.full_like(table.quality, 0.5))
    return build_cascade(table, lanes)


CORES: dict[str, Callable[[OutcomeTable, int], Core]] = {
    "routing": build_routing,
    "cascade": _cascade,
    "queueing": build_queueing,
    "caching": build_caching,
}


def transitions_row(
    env: str, table: OutcomeTable, *, repeats: int, seconds: float, lanes: int = _LANES
) -> dict[str, Any]:
    """Time one environment with random actions on one thread; observations and resets are included.

    Args:
        env: a name in `CORES`.
        table: its training rows are the queries.
        repeats: of each timing.
        seconds: minimum duration of each timing.
        lanes: of the batched environment. PPO has 64 lanes and SB3's defaults, apart from rollouts of 64
            steps and minibatches of 1,024.

    Returns:
        transitions per second (median and quartiles), the goal, whether it is met, and those of PPO.
    """
    torch.set_num_threads(1)
    build = CORES[env]
    alone = [_transitions_per_second(build(table, lanes), seconds, seed) for seed in range(repeats)]
    trained = [
        _ppo_transitions_per_second(build(table, _PPO_LANES), seconds, seed) for seed in range(repeats)
    ]
    median = spread(alone).median or 0.0
    return {
        "env": env,
        "lanes": lanes,
        "per_second": median,
        "quartiles": spread(alone).quartiles,
        "goal": GOAL,
        "met": median >= GOAL,
        "sb3_ppo_per_second": spread(trained).median,
    }


def _transitions_per_second(core: Core, seconds: float, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    actions = _random_actions(core.action_space, (64, core.lanes), generator)
    core.reset(seed)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for action in actions:
            step = core.step(action)
            core.clear(step.terminated)
            core.observation()
        steps += len(actions) * core.lanes
    return steps / (time.perf_counter() - start)


def _random_actions(space: ActionSpace, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Random actions, [64, B] or [64, B, k]."""
    if isinstance(space, spaces.MultiDiscrete):
        return torch.stack(
            [torch.randint(int(size), shape, generator=generator) for size in space.nvec], dim=-1
        )
    assert isinstance(space, spaces.Discrete)
    return torch.randint(int(space.n), shape, generator=generator)


def _ppo_transitions_per_second(core: Core, seconds: float, seed: int) -> float:
    """Transitions per second of training, with rollouts and updates."""
    rollout = _PPO_LANES * _PPO_STEPS
    learner = PPO("MlpPolicy", SB3VecEnv(core), n_steps=_PPO_STEPS, batch_size=1024, seed=seed, device="cpu")
    without_log_folder(learner)
    steps, start = 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - start < seconds:
        learner.learn(rollout, reset_num_timesteps=False)
        steps += rollout
    return steps / (time.perf_counter() - start)
