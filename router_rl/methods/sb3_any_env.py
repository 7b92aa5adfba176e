"""PPO of Stable-Baselines3 on the batched core of any environment: the standard RL baseline.

An MLP of two layers of 64 reads the whole observation, standardised by running statistics; rewards are
scaled. Everything is SB3's default except the size of a rollout. PPO knows no action mask: it learns from
rewards which actions are invalid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from envs import Core, SB3VecEnv

from ..problems.problem import Policy, Problem
from .method import Method, Run

__all__ = ["AMORTIZED", "METHOD", "PPOHyperparameters", "PPOPolicy", "fit_amortized", "fit_case", "train_ppo"]

_LANES = 64
_MEASUREMENTS = 8  # on validation, while it trains


@dataclass(frozen=True, kw_only=True)
class PPOHyperparameters:
    """Hyperparameters of PPO.

    Attributes:
        decisions: number of environment steps, over all lanes.
        steps: steps of each lane between two updates (SB3's n_steps).
        batch: decisions a gradient step (batch_size).
        learning_rate: of Adam.
        entropy: coefficient of the entropy bonus (ent_coef).
        discount: of future rewards (gamma).
    """

    decisions: int = 200_000
    steps: int = 64
    batch: int = 512
    learning_rate: float = 3e-4
    entropy: float = 0.0
    discount: float = 0.99


@dataclass(frozen=True, kw_only=True, eq=False)
class PPOPolicy:
    """The greedy policy of a trained agent.

    Attributes:
        agent: of Stable-Baselines3.
        env: what standardises observations.
    """

    agent: PPO
    env: VecNormalize

    def start(self, core: Core) -> None:
        """Nothing to prepare."""

    def act(self, observation: Tensor) -> Tensor:
        """Actions [B] or [B, k] int64, for observations [B, O] float32."""
        normalised = self.env.normalize_obs(observation.cpu().numpy())
        actions, _ = self.agent.predict(normalised, deterministic=True)
        return torch.from_numpy(np.asarray(actions, dtype=np.int64))


def fit_case(problem: Problem, hyperparameters: PPOHyperparameters, run: Run) -> PPOPolicy:
    """Train in the only case of a problem."""
    case = problem.case
    core = problem.core("train", case, lanes=_LANES, seed=_first_seed(run))
    return _trained(problem, core, hyperparameters, run)


def fit_amortized(problem: Any, hyperparameters: PPOHyperparameters, run: Run) -> PPOPolicy:
    """Train one policy for all cases of a problem whose core draws a case for each episode."""
    core = problem.core("train", None, lanes=_LANES, seed=_first_seed(run))
    return _trained(problem, core, hyperparameters, run)


def train_ppo(
    core: Core,
    hyperparameters: PPOHyperparameters,
    seed: int,
    report: Callable[[int, Policy], None] = lambda done, policy: None,
) -> PPOPolicy:
    """Train PPO on the lanes of a core.

    Args:
        core: the environment, B lanes wide.
        hyperparameters: of PPO.
        seed: of the weights and of the draws.
        report: is called after every update with the number of decisions and the policy.

    Source: Schulman et al. 2017, https://arxiv.org/abs/1707.06347, as Stable-Baselines3 has it.
    """
    env = VecNormalize(SB3VecEnv(core), gamma=hyperparameters.discount)
    env.seed(seed)
    agent = PPO(
        "MlpPolicy",
        env,
        n_steps=hyperparameters.steps,
        batch_size=hyperparameters.batch,
        learning_rate=hyperparameters.learning_rate,
        ent_coef=hyperparameters.entropy,
        gamma=hyperparameters.discount,
        seed=seed,
        device="cpu",
    )
    policy = PPOPolicy(agent=agent, env=env)
    in_rollout = hyperparameters.steps * core.lanes
    for done in range(in_rollout, max(hyperparameters.decisions, in_rollout) + 1, in_rollout):
        agent.learn(in_rollout, reset_num_timesteps=False)
        report(done, policy)
    env.training = False
    return policy


def _trained(problem: Problem, core: Core, hyperparameters: PPOHyperparameters, run: Run) -> PPOPolicy:
    """Train, and measure on validation in the middle case now and then."""
    case = problem.cases[(len(problem.cases) - 1) // 2]
    total = hyperparameters.decisions
    interval = max(1, total // _MEASUREMENTS)
    measured = 0

    def report(done: int, policy: Policy) -> None:
        nonlocal measured
        validation = None
        if run.callback is not None and done // interval > measured:
            measured = done // interval
            validation = problem.evaluate(policy, "validation", case)
        run.report(min(done, total), total, "decisions", validation)

    return train_ppo(core, hyperparameters, run.seed, report)


def _first_seed(run: Run) -> int:
    return 1_000_000 * (run.seed + 1)


METHOD = Method(
    name="ppo",
    family="rl",
    fit=fit_case,
    hyperparameters=PPOHyperparameters,
    space={"learning_rate": (3e-4, 1e-3), "discount": (0.9, 0.99), "entropy": (0.0, 0.01)},
    about="PPO of Stable-Baselines3 on the whole observation",
)

AMORTIZED = Method(
    name="ppo",
    family="rl",
    fit=fit_amortized,
    hyperparameters=PPOHyperparameters,
    space=METHOD.space,
    about="PPO of Stable-Baselines3 on the whole observation; one policy for all cases",
    amortizes=True,
)
