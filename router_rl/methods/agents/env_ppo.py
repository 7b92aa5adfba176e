"""PPO on device in any environment: cascades, queues and caches.

Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347, with generalised advantages, a critic of its
own, and advantages standardised in each minibatch. It learns from the rewards of its own decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from experts.io.value_range import Count, Fraction, Positive, Size

from ..method import Method
from .env_rollout import EnvRollout, evaluate_actions
from .env_training import SHORT_SPACE, SPACE, EnvHyperparameters, EnvUpdate, batch_of, env_fit
from .router_ppo import clipped

__all__ = [
    "AMORTIZED",
    "METHOD",
    "EnvPPOHyperparameters",
    "ShortEpisodePPOHyperparameters",
    "ppo_ascent",
]


@dataclass(frozen=True, kw_only=True)
class EnvPPOHyperparameters(EnvHyperparameters):
    """Hyperparameters of on-device PPO.

    Attributes:
        epochs: epochs over each rollout.
        minibatches: minibatches per epoch.
        trace: lambda of the advantages.
        clip: clip range of the probability ratio.
    """

    lanes: Size = 16
    steps: Size = 128
    epochs: Count = 6
    minibatches: Count = 8
    trace: Fraction = 0.95
    clip: Positive = 0.2


@dataclass(frozen=True, kw_only=True)
class ShortEpisodePPOHyperparameters(EnvPPOHyperparameters):
    """Hyperparameters of on-device PPO where episodes are short: later rewards are not discounted."""

    discount: Fraction = 1.0


def ppo_ascent(hyperparameters: EnvPPOHyperparameters, update: EnvUpdate, rollout: EnvRollout) -> None:
    """Update policy and critic on a rollout: several epochs of minibatches, with the clipped ratio.

    Args:
        hyperparameters: of PPO.
        update: policy, critic and optimizer.
        rollout: decisions of the current policy.
    """
    batch = batch_of(update, rollout, discount=hyperparameters.discount, trace=hyperparameters.trace)
    device = batch.advantage.device
    for _ in range(hyperparameters.epochs):
        order = torch.randperm(len(batch.advantage), generator=update.generator, device=device)
        for index in order.chunk(hyperparameters.minibatches):
            part = batch.part(index)
            advantage = part.advantage - part.advantage.mean()
            advantage = advantage / advantage.std().clamp(min=1e-6)
            acts = evaluate_actions(update.policy, part.observation, part.action)
            gain = clipped((acts.log_prob - part.log_prob).exp(), advantage, hyperparameters.clip).mean()
            error = (update.values(part.observation) - part.returns).square().mean()
            update.ascend(gain + update.entropy * acts.entropy.mean() - 0.5 * error)


METHOD = Method(
    name="router_ppo",
    family="rl",
    fit=env_fit(ppo_ascent, amortized=False),
    hyperparameters=EnvPPOHyperparameters,
    space={"learning_rate": (3e-4, 1e-3, 3e-3), **SPACE},
    about="PPO with a critic, on device",
)

AMORTIZED = replace(
    METHOD,
    fit=env_fit(ppo_ascent, amortized=True),
    hyperparameters=ShortEpisodePPOHyperparameters,
    space={**METHOD.space, **SHORT_SPACE},
    about="PPO with a critic, on device; one fit for all cases",
    amortizes=True,
)
