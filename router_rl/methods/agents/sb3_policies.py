"""Stable-Baselines3 policies whose distribution is the selection rule and whose network is the router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor

from envs import SHARPNESS

from ...routing import LinearScorer, MLPScorer, Router, Soft

__all__ = ["RouterActorCriticPolicy", "RouterDQNPolicy", "split_observation"]


def split_observation(router: Router, observation: Tensor) -> tuple[Tensor, Tensor | None]:
    """Split an observation [B, D + S] into the router's inputs: features [B, D] and state [B, S] or None."""
    if not router.state:
        return observation, None
    return observation[:, : router.features], observation[:, router.features :]


class RouterActorCriticPolicy(ActorCriticPolicy):
    """Actor-critic policy. The actor is the router to export; the critic is an MLP on the same inputs.

    Args:
        make_router: returns an untrained router.
        critic_hidden: widths of the critic's hidden layers.
    """

    router: Router
    critic: MLPScorer

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        make_router: Callable[[], Router],
        critic_hidden: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        self._make_router = make_router
        self._critic_hidden = critic_hidden
        super().__init__(observation_space, action_space, lr_schedule, net_arch=[], **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        self.router = self._make_router()
        scorer = cast("LinearScorer | MLPScorer", self.router.scorer)
        self.critic = MLPScorer(scorer.inputs, 1, self._critic_hidden)
        self.critic.shift.copy_(scorer.shift)
        self.critic.scale.copy_(scorer.scale)
        build: Any = self.optimizer_class  # its declared base takes no learning rate
        self.optimizer = build(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions in the environment's format, values [B, 1] and log-probabilities [B]."""
        logits = self._logits(obs)
        rule = self.router.rule
        if deterministic:
            action = logits if isinstance(rule, Soft) else rule.select(logits).experts
        else:
            action = rule.sample(logits)
        shape = cast("tuple[int, ...]", self.action_space.shape)
        played = action / SHARPNESS if isinstance(rule, Soft) else action
        return played.reshape(-1, *shape), self.critic(obs), rule.log_prob(logits, action)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return values [B, 1], log-probabilities [B] and entropies [B] of earlier actions."""
        logits = self._logits(obs)
        rule = self.router.rule
        action = actions * SHARPNESS if isinstance(rule, Soft) else actions.long().reshape(-1, rule.k)
        return self.critic(obs), rule.log_prob(logits, action), rule.entropy(logits)

    def predict_values(self, obs: Any) -> Tensor:
        """Return the values [B, 1]."""
        return self.critic(obs)

    def weigh(self, observation: Tensor, experts: Tensor) -> Tensor:
        """Return the mixture weights [B, k] that the exported router gives to selected experts."""
        with torch.no_grad():
            return self.router.rule.weigh(self._logits(observation), experts)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self.forward(observation, deterministic)[0]

    def _logits(self, observation: Tensor) -> Tensor:
        return self.router.logits(*split_observation(self.router, observation))[0]


class RouterDQNPolicy(DQNPolicy):
    """DQN policy whose Q-values are the router's logits. The target network is a second router.

    Args:
        make_router: returns an untrained router.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        *,
        make_router: Callable[[], Router],
        **kwargs: Any,
    ) -> None:
        self._make_router = make_router
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    @property
    def router(self) -> Router:
        """The router to export."""
        return cast(RouterQNetwork, self.q_net).router

    def make_q_net(self) -> QNetwork:
        """Return a router wrapped as a Q-network."""
        network = RouterQNetwork(self.observation_space, self.action_space, self._make_router())
        return cast(QNetwork, network.to(self.device))


class RouterQNetwork(BasePolicy):
    """Q-network of `RouterDQNPolicy`: its Q-values [B, N] are a router's logits."""

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], router: Router
    ) -> None:
        super().__init__(observation_space, action_space)
        self.router = router

    def forward(self, obs: Any) -> Tensor:
        """Return the Q-values [B, N]."""
        return self.router.logits(*split_observation(self.router, obs))[0]

    def _predict(self, observation: Any, deterministic: bool = True) -> Tensor:
        return self.forward(observation).argmax(dim=1)
