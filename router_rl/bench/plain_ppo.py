"""Stable-Baselines3 PPO as it is commonly used: a DummyVecEnv of eight scalar environments.

The environment is a minimal numpy one, and the policy is the same router that the other methods train. The
timing therefore compares the training methods, not the overhead of this package's classes.
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

from ..methods.agents.expectation import RewardTable
from ..methods.agents.sb3_logger import without_log_folder
from ..methods.agents.sb3_policies import RouterActorCriticPolicy
from ..methods.method import Run
from ..methods.training_loop import EarlyStopping
from ..problems.routing.problem import RoutingProblem
from ..routing import Router

__all__ = ["LANES", "LARGE", "LanesEnv", "PlainPPOHyperparameters", "fit"]

LANES = 8
_VALIDATE_EVERY = 8_192


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainPPOHyperparameters:
    """SB3's default hyperparameters under SB3's names, with a budget and early stopping.

    Attributes:
        learning_rate: of Adam.
        n_steps: steps of each environment in a rollout.
        batch_size: of a minibatch.
        n_epochs: epochs over a rollout.
        gamma: discount factor.
        decisions: the budget, environment steps.
        patience: validation measurements without improvement before training stops.
    """

    learning_rate: float = 3e-4
    n_steps: int = 2048
    batch_size: int = 64
    n_epochs: int = 10
    gamma: float = 0.99
    decisions: int = 200_000
    patience: int = 10


# One update per rollout, on the whole rollout; a higher learning rate; no return from later decisions.
LARGE: dict[str, Any] = {
    "learning_rate": 3e-3,
    "n_steps": 1024,
    "batch_size": 8192,
    "n_epochs": 1,
    "gamma": 0.0,
}


class LanesEnv(gymnasium.Env[np.ndarray, Any]):
    """One random query per step; an episode is one window. The reward is the chosen expert's utility.

    Args:
        features: [T, D] float32.
        utility: [T, N] float32, of each expert on each query.
        window: W, decisions per episode.
        seed: of the queries drawn.
    """

    def __init__(self, features: np.ndarray, utility: np.ndarray, window: int, seed: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (features.shape[1],), dtype=np.float32)
        self.action_space = spaces.Discrete(utility.shape[1])
        self._features, self._utility, self._window = features, utility, window
        self._random = np.random.default_rng(seed)
        self._row = self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a window; the seed is ignored in favour of the constructor's."""
        self._steps = 0
        self._row = int(self._random.integers(len(self._features)))
        return self._features[self._row], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Return the utility of one expert and draw the next query."""
        reward = float(self._utility[self._row, action])
        self._steps += 1
        self._row = int(self._random.integers(len(self._features)))
        return self._features[self._row], reward, self._steps >= self._window, False, {}


def fit(problem: RoutingProblem, hyperparameters: PlainPPOHyperparameters, run: Run) -> Router:
    """Train a router with PPO, without the load penalty; it is validated as the other methods are.

    Args:
        problem: gives the scorer, the training rows and the validation.
        hyperparameters: of PPO.
        run: seed, callback and validation period.
    """
    outcomes: Outcomes = problem.outcomes()
    utility = RewardTable(outcomes, problem.objective.compute_weight).utility.numpy()
    features, window = outcomes.features.numpy(), problem.objective.window

    def lane(number: int) -> LanesEnv:
        return LanesEnv(features, utility, window, run.seed * LANES + number)

    env = DummyVecEnv([lambda number=number: lane(number) for number in range(LANES)])
    agent = PPO(
        RouterActorCriticPolicy,
        env,
        learning_rate=hyperparameters.learning_rate,
        n_steps=hyperparameters.n_steps,
        batch_size=hyperparameters.batch_size,
        n_epochs=hyperparameters.n_epochs,
        gamma=hyperparameters.gamma,
        policy_kwargs={
            "make_router": lambda: problem.new_router(run.seed),
            "critic_hidden": problem.scorer.hidden,
            "optimizer_class": torch.optim.Adam,
        },
        seed=run.seed,
        device=problem.device,
    )
    without_log_folder(agent)
    policy: Any = agent.policy
    stopping = EarlyStopping(problem, hyperparameters.patience, run.callback)
    period = run.validate_every or _VALIDATE_EVERY
    agent.learn(
        hyperparameters.decisions,
        callback=_Validation(policy.router, stopping, period, hyperparameters.decisions),
    )
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
