"""DQN of Stable-Baselines3 on the batched core of an environment: Q-learning from a replay buffer.

It needs no copies of the environment. Observations are normalized by running statistics and rewards are
scaled (`VecNormalize`); all other options are SB3's defaults. It takes environments with one discrete action,
all of whose values are valid.

Source: Mnih et al. 2015, https://doi.org/10.1038/nature14236; implementation of Stable-Baselines3.
"""

from __future__ import annotations

from dataclasses import dataclass

from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import VecNormalize

from envs import SB3VecEnv
from experts.io.value_range import Count, Fraction, Positive, Share, Size

from ..problems.problem import Problem
from .agents.sb3_logger import without_log_folder
from .hyperparameters import Hyperparameters
from .method import Method, Run
from .sb3_any_env import SB3Policy, first_seed

__all__ = ["METHOD", "DQNHyperparameters", "fit_dqn"]

_REPORTS = 16  # during training


@dataclass(frozen=True, kw_only=True)
class DQNHyperparameters(Hyperparameters):
    """Hyperparameters of DQN.

    Attributes:
        decisions: number of environment steps, over all lanes.
        lanes: parallel environments.
        updates: gradient steps after a step of all lanes (SB3's gradient_steps).
        batch: decisions per gradient step (SB3's batch_size).
        memory: decisions in the replay buffer (SB3's buffer_size).
        learning_rate: learning rate of Adam.
        exploration: share of training over which the exploration rate falls to 5% (SB3's
            exploration_fraction).
        target_every: decisions between updates of the target network (SB3's target_update_interval).
        discount: discount of future rewards (SB3's gamma).
    """

    decisions: Count = 200_000
    lanes: Size = 64
    updates: Count = 4
    batch: Count = 256
    memory: Count = 100_000
    learning_rate: Positive = 1e-3
    exploration: Share = 0.3
    target_every: Count = 6_400
    discount: Fraction = 0.95


def fit_dqn(problem: Problem, hyperparameters: DQNHyperparameters, run: Run) -> SB3Policy:
    """Train DQN on the only case of a problem; returns the greedy policy."""
    core = problem.core("train", problem.case, lanes=hyperparameters.lanes, seed=first_seed(run))
    env = VecNormalize(SB3VecEnv(core), gamma=hyperparameters.discount)
    env.seed(run.seed)
    agent = DQN(
        "MlpPolicy",
        env,
        learning_rate=hyperparameters.learning_rate,
        buffer_size=hyperparameters.memory,
        learning_starts=min(hyperparameters.decisions // 10, 5_000),
        batch_size=hyperparameters.batch,
        train_freq=1,
        gradient_steps=hyperparameters.updates,
        target_update_interval=hyperparameters.target_every,
        exploration_fraction=hyperparameters.exploration,
        gamma=hyperparameters.discount,
        seed=run.seed,
        device="cpu",
    )
    without_log_folder(agent)
    steps = -(-hyperparameters.decisions // hyperparameters.lanes)
    done = 0

    def report(local: dict[str, object], _: dict[str, object]) -> bool:
        nonlocal done
        done += 1
        if done % max(1, steps // _REPORTS) == 0:
            run.report(done * hyperparameters.lanes, steps * hyperparameters.lanes, "decisions")
        return True

    agent.learn(steps * hyperparameters.lanes, callback=report)
    env.training = False
    return SB3Policy(agent=agent, env=env)


METHOD = Method(
    name="dqn",
    family="rl",
    fit=fit_dqn,
    hyperparameters=DQNHyperparameters,
    space={"learning_rate": (3e-4, 1e-3, 3e-3), "discount": (0.9, 0.95, 0.99)},
    about="DQN (Stable-Baselines3) on the whole observation",
)
