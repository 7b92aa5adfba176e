"""REINFORCE with a learned baseline on device in any environment: cascades, queues and caches.

Williams 1992, https://doi.org/10.1007/BF00992696. One gradient step of the policy per rollout. The return
is the discounted sum of the later rewards, plus the baseline's value where the rollout is cut. It learns from
the rewards of its own decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from ...problems.problem import ActionPolicy, Problem
from ..method import Method, Run
from .env_rollout import EnvRollout, evaluate_actions
from .env_training import EnvHyperparameters, EnvUpdate, batch_of, learn_env

__all__ = [
    "AMORTIZED",
    "METHOD",
    "EnvReinforceHyperparameters",
    "ShortEpisodeReinforceHyperparameters",
    "fit_amortized",
    "fit_case",
    "reinforce_ascent",
]


@dataclass(frozen=True, kw_only=True)
class EnvReinforceHyperparameters(EnvHyperparameters):
    """Hyperparameters of REINFORCE.

    Attributes:
        baseline_steps: gradient steps of the baseline per rollout, each on a part of it.
    """

    lanes: int = 16
    steps: int = 16
    learning_rate: float = 3e-3
    baseline_steps: int = 4


@dataclass(frozen=True, kw_only=True)
class ShortEpisodeReinforceHyperparameters(EnvReinforceHyperparameters):
    """Hyperparameters of REINFORCE where episodes are short: later rewards are not discounted."""

    discount: float = 1.0


def fit_case(problem: Problem, hyperparameters: EnvReinforceHyperparameters, run: Run) -> ActionPolicy:
    """Train REINFORCE on the only case of a problem."""
    return learn_env(problem, problem.case, hyperparameters, run, partial(reinforce_ascent, hyperparameters))


def fit_amortized(problem: Problem, hyperparameters: EnvReinforceHyperparameters, run: Run) -> ActionPolicy:
    """Train one REINFORCE policy for all cases of a problem whose core draws a case for each episode."""
    return learn_env(problem, None, hyperparameters, run, partial(reinforce_ascent, hyperparameters))


def reinforce_ascent(
    hyperparameters: EnvReinforceHyperparameters, update: EnvUpdate, rollout: EnvRollout
) -> None:
    """Update policy and baseline on a rollout.

    Args:
        hyperparameters: of REINFORCE.
        update: policy, baseline and optimizer.
        rollout: decisions of the current policy.
    """
    batch = batch_of(update, rollout, discount=hyperparameters.discount, trace=1.0)
    advantage = batch.advantage - batch.advantage.mean()
    advantage = advantage / advantage.std().clamp(min=1e-6)
    acts = evaluate_actions(update.policy, batch.observation, batch.action)
    update.ascend((acts.log_prob * advantage).mean() + update.entropy * acts.entropy.mean())
    order = torch.randperm(len(advantage), generator=update.generator, device=advantage.device)
    for index in order.chunk(hyperparameters.baseline_steps):
        part = batch.part(index)
        update.ascend(-(update.values(part.observation) - part.returns).square().mean())


METHOD = Method(
    name="reinforce",
    family="rl",
    fit=fit_case,
    hyperparameters=EnvReinforceHyperparameters,
    space={
        "learning_rate": (1e-3, 3e-3, 1e-2),
        "discount": (0.9, 0.95, 0.99),
        "entropy": (0.0, 0.01, 0.03),
        "weight_decay": (1e-3, 1e-1),
    },
    about="REINFORCE with a learned baseline, on device",
)

AMORTIZED = Method(
    name="reinforce",
    family="rl",
    fit=fit_amortized,
    hyperparameters=ShortEpisodeReinforceHyperparameters,
    space={**METHOD.space, "discount": (0.99, 1.0)},
    about="REINFORCE with a baseline, on device; one fit for all cases",
    amortizes=True,
)
