"""PPO of Stable-Baselines3 on the batched core of any environment: the standard RL baseline.

The policy is SB3's default MLP on the whole observation. Observations are normalized by running statistics
and rewards are scaled (`VecNormalize`). All other options are SB3's defaults except the rollout size. PPO
does not use the action mask: it learns from rewards which actions are invalid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from envs import Core, SB3VecEnv
from experts.io.value_range import Count, Fraction, NonNegative, Positive, Size

from ..problems.problem import Policy, Problem
from .agents.sb3_logger import without_log_folder
from .hyperparameters import Hyperparameters
from .method import Method, Run

__all__ = [
    "AMORTIZED",
    "METHOD",
    "PPOHyperparameters",
    "SB3Policy",
    "first_seed",
    "fit_amortized",
    "fit_case",
    "train_ppo",
    "train_validated",
]

_LANES = 64
_VALIDATIONS = 8  # during training


@dataclass(frozen=True, kw_only=True)
class PPOHyperparameters(Hyperparameters):
    """Hyperparameters of PPO.

    Attributes:
        decisions: number of environment steps, over all lanes.
        steps: steps per lane in a rollout (SB3's n_steps).
        batch: decisions per gradient step (SB3's batch_size).
        learning_rate: learning rate of Adam.
        entropy: entropy bonus (SB3's ent_coef).
        discount: discount of future rewards (SB3's gamma).
    """

    decisions: Count = 200_000
    steps: Size = 64
    batch: Count = 512
    learning_rate: Positive = 3e-4
    entropy: NonNegative = 0.0
    discount: Fraction = 0.99


@dataclass(frozen=True, kw_only=True, eq=False)
class SB3Policy:
    """The greedy policy of a trained Stable-Baselines3 agent.

    Attributes:
        agent: the agent.
        env: normalizes observations.
    """

    agent: BaseAlgorithm
    env: VecNormalize

    def start(self, core: Core) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Tensor) -> Tensor:
        """Return actions [B] or [B, k] int64 for observations [B, O] float32."""
        normalised = self.env.normalize_obs(observation.cpu().numpy())
        actions, _ = self.agent.predict(normalised, deterministic=True)
        return torch.from_numpy(np.asarray(actions, dtype=np.int64))


def fit_case(problem: Problem, hyperparameters: PPOHyperparameters, run: Run) -> SB3Policy:
    """Train PPO on the only case of a problem."""
    case = problem.case
    core = problem.core("train", case, lanes=_LANES, seed=first_seed(run))
    return train_validated(problem, core, hyperparameters, run)


def fit_amortized(problem: Any, hyperparameters: PPOHyperparameters, run: Run) -> SB3Policy:
    """Train one PPO policy for all cases of a problem whose core samples a case for each episode."""
    core = problem.core("train", None, lanes=_LANES, seed=first_seed(run))
    return train_validated(problem, core, hyperparameters, run)


def train_ppo(
    core: Core,
    hyperparameters: PPOHyperparameters,
    seed: int,
    report: Callable[[int, Policy], None] = lambda done, policy: None,
) -> SB3Policy:
    """Train PPO on the lanes of a core.

    Args:
        core: the environment, B lanes wide.
        hyperparameters: of PPO.
        seed: random seed of the weights and the actions.
        report: is called after every update with the number of decisions and the policy.

    Returns:
        the greedy policy.

    Source: Schulman et al. 2017, https://arxiv.org/abs/1707.06347; implementation of Stable-Baselines3.
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
    without_log_folder(agent)
    policy = SB3Policy(agent=agent, env=env)
    in_rollout = hyperparameters.steps * core.lanes
    for done in range(in_rollout, max(hyperparameters.decisions, in_rollout) + 1, in_rollout):
        agent.learn(in_rollout, reset_num_timesteps=False)
        report(done, policy)
    env.training = False
    return policy


def train_validated(
    problem: Problem,
    core: Core,
    hyperparameters: PPOHyperparameters,
    run: Run,
    evaluated: Callable[[Policy], Any] = lambda policy: policy,
) -> SB3Policy:
    """Train PPO, with validation in the middle case at regular intervals.

    Args:
        problem: evaluates the policy.
        core: the environment.
        hyperparameters: of PPO.
        run: seed and callback.
        evaluated: maps the policy to the one that the problem evaluates.
    """
    case = problem.cases[(len(problem.cases) - 1) // 2]
    total = hyperparameters.decisions
    interval = max(1, total // _VALIDATIONS)
    measured = 0

    def report(done: int, policy: Policy) -> None:
        nonlocal measured
        validation = None
        if run.callback is not None and done // interval > measured:
            measured = done // interval
            validation = problem.evaluate(evaluated(policy), "validation", case)
        run.report(min(done, total), total, "decisions", validation)

    return train_ppo(core, hyperparameters, run.seed, report)


def first_seed(run: Run) -> int:
    """Return the seed of the first lane in training, far from those of evaluations."""
    return 1_000_000 * (run.seed + 1)


METHOD = Method(
    name="ppo",
    family="rl",
    fit=fit_case,
    hyperparameters=PPOHyperparameters,
    space={"learning_rate": (3e-4, 1e-3), "discount": (0.9, 0.99), "entropy": (0.0, 0.01)},
    about="PPO (Stable-Baselines3) on the whole observation",
)

AMORTIZED = Method(
    name="ppo",
    family="rl",
    fit=fit_amortized,
    hyperparameters=PPOHyperparameters,
    space=METHOD.space,
    about="PPO (Stable-Baselines3); one policy for all cases",
    amortizes=True,
)
