"""PPO of Stable-Baselines3 as it comes, on the batched core of any environment: what most would try first.

A network of two layers of 64 over the whole observation, standardised as it is seen, rewards scaled, SB3's
defaults but for the size of a rollout. It is told nothing that the observation does not hold, and it is not
told which actions are forbidden; where there are some it learns from what they pay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from envs import Core, SB3VecEnv

from ..problems.problem import Case, EnvMethod, Played, Tell

__all__ = ["PPO_LANES", "PPOHyperparameters", "fit_ppo", "ppo_method"]

PPO_LANES = 64
Actions = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class PPOHyperparameters:
    """Settings of PPO.

    Attributes:
        decisions: played in all.
        steps: of each lane between two updates.
        batch: decisions a gradient step.
        learning_rate, entropy, discount: SB3's learning_rate, ent_coef and gamma.
    """

    decisions: int = 200_000
    steps: int = 64
    batch: int = 512
    learning_rate: float = 3e-4
    entropy: float = 0.0
    discount: float = 0.99


_TRIES = (
    PPOHyperparameters(),
    PPOHyperparameters(learning_rate=1e-3),
    PPOHyperparameters(learning_rate=1e-3, discount=0.9),
    PPOHyperparameters(learning_rate=1e-3, entropy=0.01),
)


def fit_ppo(
    core: Core, settings: PPOHyperparameters, seed: int, tell: Callable[[int], None] = lambda done: None
) -> Actions:
    """Train on some lanes; greedy choices, observations [B, O] to actions [B] or [B, k] int64."""
    env = VecNormalize(SB3VecEnv(core), gamma=settings.discount)
    env.seed(seed)
    agent = PPO(
        "MlpPolicy",
        env,
        n_steps=settings.steps,
        batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        ent_coef=settings.entropy,
        gamma=settings.discount,
        seed=seed,
        device="cpu",
    )
    a_rollout = settings.steps * core.lanes
    for done in range(a_rollout, max(settings.decisions, a_rollout) + 1, a_rollout):
        agent.learn(a_rollout, reset_num_timesteps=False)
        tell(done)
    env.training = False

    def actions(seen: Tensor) -> Tensor:
        chosen, _ = agent.predict(env.normalize_obs(seen.cpu().numpy()), deterministic=True)
        return torch.from_numpy(np.asarray(chosen, dtype=np.int64))

    return actions


def ppo_method(
    core_of: Callable[[Any, Case, int], Core],
    policy_of: Callable[[Actions], Any],
    play: Callable[[Any, Any, Case, str], Played],
    *,
    once: bool = False,
) -> EnvMethod:
    """The method for an environment, its settings chosen on validation.

    Args:
        core_of: problem, case and seed to `PPO_LANES` lanes of training rows.
        policy_of: its choices to a policy of the environment.
        play: as `EnvKind.play`.
        once: one policy serves all cases, trained on the first one's core.
    """

    def fit(problem: Any, cases: Sequence[Case], seed: int, tries: int, tell: Tell) -> list[Any]:
        each = [tuple(cases)] if once else [(case,) for case in cases]
        settings, policies = _TRIES[:tries], []
        total, before = len(each) * sum(one.decisions for one in settings), 0
        for group in each:
            found: list[tuple[float, Any]] = []
            for one in settings:

                def told(done: int, before: int = before) -> None:
                    tell(before + done, total, "decisions played")

                policy = policy_of(fit_ppo(core_of(problem, group[0], seed), one, seed, told))
                earned = [play(problem, policy, case, "validation").means()["utility"] for case in group]
                found.append((sum(earned) / len(earned), policy))
                before += one.decisions
            policies += [max(found, key=lambda one: one[0])[1]] * len(group)
        return policies

    return EnvMethod(
        name="ppo",
        family="rl",
        about="PPO of Stable-Baselines3 on the observation as it is",
        fit=fit,
    )
