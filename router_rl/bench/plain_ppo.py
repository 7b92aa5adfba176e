"""What people use today: Stable-Baselines3 PPO over a DummyVecEnv of eight ordinary scalar environments.

The environment is as lean as numpy makes it, and the policy is the router that all are measured with, so
that what is timed is the way of working and not our classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from envs import Outcomes

from ..methods.agents.expectation import Payment
from ..methods.agents.sb3_policies import RouterActorCriticPolicy
from ..methods.method import Run
from ..methods.training_loop import EarlyStopping
from ..problems.routing.problem import Task
from ..routing import Router

__all__ = ["LANES", "LARGE", "LanesEnv", "PlainPPOSettings", "fit"]

LANES = 8
_VALIDATE_EVERY = 8_192


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainPPOSettings:
    """SB3's own defaults, but for the budget; names as in SB3.

    Attributes:
        decisions: the budget, decisions played.
        patience: measurements without a better one before stopping.
    """

    learning_rate: float = 3e-4
    n_steps: int = 2048
    batch_size: int = 64
    n_epochs: int = 10
    gamma: float = 0.99
    decisions: int = 200_000
    patience: int = 10


# As few and as large updates as a rollout gives; a larger rate, and no credit for what comes after.
LARGE: dict[str, Any] = {
    "learning_rate": 3e-3,
    "n_steps": 1024,
    "batch_size": 8192,
    "n_epochs": 1,
    "gamma": 0.0,
}


class LanesEnv(gymnasium.Env[np.ndarray, Any]):
    """One query after another, in numpy; an episode is one window.

    Args:
        features: [T, D] float32.
        utility: [T, N] float32, what each expert earns.
        window: decisions an episode.
        seed: of the queries drawn.
    """

    def __init__(self, features: np.ndarray, utility: np.ndarray, window: int, seed: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (features.shape[1],), dtype=np.float32)
        self.action_space = spaces.Discrete(utility.shape[1])
        self._features, self._utility, self._window = features, utility, window
        self._random = np.random.default_rng(seed)
        self._row = self._played = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a window."""
        self._played = 0
        self._row = int(self._random.integers(len(self._features)))
        return self._features[self._row], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Pay for one expert and draw the next query."""
        reward = float(self._utility[self._row, action])
        self._played += 1
        self._row = int(self._random.integers(len(self._features)))
        return self._features[self._row], reward, self._played >= self._window, False, {}


def fit(task: Task, settings: PlainPPOSettings, run: Run) -> Router:
    """Train; measured on validation as every other learner is. Load is not charged."""
    outcomes: Outcomes = task.outcomes()
    utility = Payment(outcomes, task.objective.compute_weight).utility.numpy()
    features, window = outcomes.features.numpy(), task.objective.window

    def lane(number: int) -> LanesEnv:
        return LanesEnv(features, utility, window, run.seed * LANES + number)

    env = DummyVecEnv([lambda number=number: lane(number) for number in range(LANES)])
    agent = PPO(
        RouterActorCriticPolicy,
        env,
        learning_rate=settings.learning_rate,
        n_steps=settings.n_steps,
        batch_size=settings.batch_size,
        n_epochs=settings.n_epochs,
        gamma=settings.gamma,
        policy_kwargs={
            "make_router": lambda: task.new_router(run.seed),
            "critic_hidden": task.scorer.hidden,
            "optimizer_class": torch.optim.Adam,
        },
        seed=run.seed,
        device=task.device,
    )
    policy: Any = agent.policy
    stopping = EarlyStopping(task, settings.patience, run.watch)
    callback = _Validation(policy.router, stopping, run.validate_every or _VALIDATE_EVERY, settings.decisions)
    agent.learn(settings.decisions, callback=callback)
    return stopping.best(policy.router)


class _Validation(BaseCallback):
    def __init__(self, router: Router, stopping: EarlyStopping, period: int, total: int) -> None:
        super().__init__()
        self._router, self._stopping = router, stopping
        self._period, self._total = period, total

    def _on_training_start(self) -> None:
        self._stopping.update(self._router, 0, self._total)

    def _on_step(self) -> bool:
        if self.num_timesteps % self._period:
            return True
        return not self._stopping.update(self._router, self.num_timesteps, self._total)
