"""REINFORCE with a learned baseline on device in any environment: cascades, queues and caches.

Williams 1992, https://doi.org/10.1007/BF00992696. One gradient step of the policy per rollout. The return
is the discounted sum of the later rewards, plus the baseline's value where the rollout is cut. It learns from
the rewards of its own decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from experts.io.value_range import Count, Fraction, Positive, Size

from ..method import Method
from .env_rollout import EnvRollout, evaluate_actions
from .env_training import SHORT_SPACE, SPACE, EnvHyperparameters, EnvUpdate, batch_of, env_fit

__all__ = [
    "AMORTIZED",
    "METHOD",
    "EnvReinforceHyperparameters",
    "ShortEpisodeReinforceHyperparameters",
    "reinforce_ascent",
]


@dataclass(frozen=True, kw_only=True)
class EnvReinforceHyperparameters(EnvHyperparameters):
    """Hyperparameters of REINFORCE.

    Attributes:
        baseline_steps: gradient steps of the baseline per rollout, each on a part of it.
    """

    lanes: Size = 16
    steps: Size = 16
    learning_rate: Positive = 3e-3
    baseline_steps: Count = 4


@dataclass(frozen=True, kw_only=True)
class ShortEpisodeReinforceHyperparameters(EnvReinforceHyperparameters):
    """Hyperparameters of REINFORCE where episodes are short: later rewards are not discounted."""

    discount: Fraction = 1.0


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
    fit=env_fit(reinforce_ascent, amortized=False),
    hyperparameters=EnvReinforceHyperparameters,
    space={"learning_rate": (1e-3, 3e-3, 1e-2), **SPACE},
    about="REINFORCE with a baseline, on device",
)

AMORTIZED = replace(
    METHOD,
    fit=env_fit(reinforce_ascent, amortized=True),
    hyperparameters=ShortEpisodeReinforceHyperparameters,
    space={**METHOD.space, **SHORT_SPACE},
    about="REINFORCE, baseline, on device; one fit for all cases",
    amortizes=True,
)
