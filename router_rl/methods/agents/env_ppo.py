"""PPO on device in any environment: cascades, queues and caches.

Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347, with generalised advantages, a critic of its
own, and advantages standardised in each minibatch. It learns from the rewards of its own decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from ...problems.problem import ActionPolicy, Problem
from ..method import Method, Run
from .env_rollout import EnvRollout, evaluate_actions
from .env_training import EnvHyperparameters, EnvUpdate, batch_of, learn_env
from .router_ppo import clipped

__all__ = [
    "AMORTIZED",
    "METHOD",
    "EnvPPOHyperparameters",
    "ShortEpisodePPOHyperparameters",
    "fit_amortized",
    "fit_case",
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

    lanes: int = 16
    steps: int = 128
    epochs: int = 6
    minibatches: int = 8
    trace: float = 0.95
    clip: float = 0.2


@dataclass(frozen=True, kw_only=True)
class ShortEpisodePPOHyperparameters(EnvPPOHyperparameters):
    """Hyperparameters of on-device PPO where episodes are short: later rewards are not discounted."""

    discount: float = 1.0


def fit_case(problem: Problem, hyperparameters: EnvPPOHyperparameters, run: Run) -> ActionPolicy:
    """Train PPO on the only case of a problem."""
    return learn_env(problem, problem.case, hyperparameters, run, partial(ppo_ascent, hyperparameters))


def fit_amortized(problem: Problem, hyperparameters: EnvPPOHyperparameters, run: Run) -> ActionPolicy:
    """Train one PPO policy for all cases of a problem whose core draws a case for each episode."""
    return learn_env(problem, None, hyperparameters, run, partial(ppo_ascent, hyperparameters))


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
    fit=fit_case,
    hyperparameters=EnvPPOHyperparameters,
    space={
        "learning_rate": (3e-4, 1e-3, 3e-3),
        "discount": (0.9, 0.95, 0.99),
        "entropy": (0.0, 0.01, 0.03),
        "weight_decay": (1e-3, 1e-1),
    },
    about="PPO with generalised advantages, on device",
)

AMORTIZED = Method(
    name="router_ppo",
    family="rl",
    fit=fit_amortized,
    hyperparameters=ShortEpisodePPOHyperparameters,
    space={**METHOD.space, "discount": (0.99, 1.0)},
    about="PPO with a critic, on device; one fit for all cases",
    amortizes=True,
)
