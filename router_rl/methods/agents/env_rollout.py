"""Rollouts of a network policy in the batched core of any environment, and their advantages.

Legend: S steps, B lanes, O numbers of an observation, k parts of an action.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical

from envs import Core

from ...routing.policies.network_policy import NetworkPolicy

__all__ = ["Acts", "EnvRollout", "acts_of", "advantages", "collect", "evaluate_actions"]


class EnvRollout(NamedTuple):
    """S steps in each of B lanes.

    Attributes:
        observation: [S + 1, B, O] float32, before each step, and after the last one (of the next episode in
            lanes that terminated).
        action: [S, B] or [S, B, k] int64.
        log_prob: [S, B] float32, log-probability of the action.
        reward: [S, B] float32.
        last: [S, B] bool, True where the episode terminated.
    """

    observation: Tensor
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    last: Tensor


class Acts(NamedTuple):
    """Log-probability and entropy of actions under a policy.

    Attributes:
        log_prob: [...] float32, log-probability of the action, summed over its parts.
        entropy: [...] float32, nats, summed over the parts of an action.
    """

    log_prob: Tensor
    entropy: Tensor


@torch.no_grad()
def collect(policy: NetworkPolicy, core: Core, steps: int, generator: torch.Generator) -> EnvRollout:
    """Play S steps in every lane with actions drawn from the policy.

    Args:
        policy: the current policy.
        core: the environment; its lanes continue from where they are.
        steps: S.
        generator: random generator of the actions.
    """
    observations = [core.observation()]
    columns: list[tuple[Tensor, ...]] = []
    for _ in range(steps):
        logits = policy(observations[-1])
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device).clamp(min=1e-20)
        noisy = (logits - (-uniform.log()).log()).split(policy.choices, dim=-1)  # Gumbel: an exact draw
        drawn = torch.stack([part.argmax(dim=-1) for part in noisy], dim=-1)
        action = drawn.squeeze(-1) if len(policy.choices) == 1 else drawn
        step = core.step(action)
        core.clear(step.terminated)
        log_prob = acts_of(policy, logits, action).log_prob
        columns.append((action, log_prob, step.reward, step.terminated))
        observations.append(core.observation())
    stacked = (torch.stack(column) for column in zip(*columns, strict=True))
    return EnvRollout(torch.stack(observations), *stacked)


def evaluate_actions(policy: NetworkPolicy, observation: Tensor, action: Tensor) -> Acts:
    """Return log-probability and entropy [B] of actions [B] or [B, k] at observations [B, O]."""
    return acts_of(policy, policy(observation), action)


def acts_of(policy: NetworkPolicy, logits: Tensor, action: Tensor) -> Acts:
    """Return log-probability and entropy [B] of actions [B] or [B, k] under logits [B, sum A_i]."""
    parts = action.reshape(len(logits), -1).unbind(dim=-1)
    each = [Categorical(logits=part, validate_args=False) for part in logits.split(policy.choices, dim=-1)]
    log_prob = [one.log_prob(chosen) for one, chosen in zip(each, parts, strict=True)]
    entropy = [one.entropy() for one in each]
    return Acts(torch.stack(log_prob).sum(dim=0), torch.stack(entropy).sum(dim=0))


def advantages(
    reward: Tensor, value: Tensor, last: Tensor, *, discount: float, trace: float
) -> tuple[Tensor, Tensor]:
    """Return generalised advantages, and the returns that the values are trained on.

    With `d_s = r_s + g V_{s+1} - V_s`, where V is 0 after the end of an episode,
    `A_s = d_s + g l A_{s+1}`, cut at the end of an episode; the returns are `A_s + V_s`. With l = 1 they are
    the discounted rewards-to-go, plus the value where the rollout is cut.

    Args:
        reward: [S, B] float32.
        value: [S + 1, B] float32, V of the observations.
        last: [S, B] bool, True where the episode terminated.
        discount: g, from 0 to 1.
        trace: l, from 0 to 1.

    Source: Schulman et al. 2016, eq. 16, https://arxiv.org/abs/1506.02438.

    >>> reward, last = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[False], [True], [False]])
    >>> advantages(reward, torch.zeros(4, 1), last, discount=0.5, trace=1.0)[0].flatten().tolist()
    [2.0, 2.0, 4.0]
    """
    goes_on = (~last).float()
    difference = reward + discount * value[1:] * goes_on - value[:-1]
    advantage = torch.zeros_like(reward)
    following = torch.zeros_like(reward[0])
    for step in reversed(range(len(reward))):
        following = difference[step] + discount * trace * goes_on[step] * following
        advantage[step] = following
    return advantage, advantage + value[:-1]
