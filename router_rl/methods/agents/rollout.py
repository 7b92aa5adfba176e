"""Rollouts of a router's policy in the batched core of the routing environment, on device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from envs import Outcomes, RoutingCore

from ...problems.objective import Objective
from ...routing import AdaptiveK, Hard, Router, Selection

__all__ = [
    "Trajectory",
    "collect_rollout",
    "leave_one_out",
    "log_prob",
    "logits_of",
    "rewards_to_go",
    "rollout_core",
]


class Trajectory(NamedTuple):
    """S decisions in each of B lanes.

    Attributes:
        row: [S, B] int64, training rows of the queries.
        counts: [S, B, N] float32, the window's counts before each decision, divided by W.
        action: [S, B, ...], sampled action.
        share: [S, B, N] float32, share of the decision that each expert receives.
        log_prob: [S, B] float32, log-probability of the action.
        reward: [S, B] float32, utility.
        last: [S, B] bool, True at the end of a window.
    """

    row: Tensor
    counts: Tensor
    action: Tensor
    share: Tensor
    log_prob: Tensor
    reward: Tensor
    last: Tensor


def rollout_core(
    outcomes: Outcomes, objective: Objective, rule: Selection, lanes: int, group: int, seed: int
) -> RoutingCore:
    """Return the environment that an on-policy learner plays; its lanes start at the start of a window.

    Args:
        outcomes: the rows to sample queries from.
        objective: gives the weights of the reward and the window.
        rule: selection rule of the policy.
        lanes: B, a multiple of `group`.
        group: lanes that share a query stream.
        seed: seed of the first group's stream.
    """
    choose = "some" if isinstance(rule, AdaptiveK) else "experts"
    config = objective.config(k=rule.k, observe_load=True, choose=choose)
    return RoutingCore(outcomes, config, lanes, seed, group=group)


@torch.no_grad()
def collect_rollout(router: Router, core: RoutingCore, steps: int, generator: torch.Generator) -> Trajectory:
    """Collect S decisions in every lane of the environment with the current policy.

    Args:
        router: the policy; it observes the window's counts if it has state.
        core: the environment; its lanes continue from where they are.
        steps: S.
        generator: random generator of the actions.
    """
    columns: list[tuple[Tensor, ...]] = []
    for _ in range(steps):
        row, counts = core.state.row, core.state.counts / core.config.window
        scores = logits_of(router, core.outcomes, row.reshape(-1, core.group), counts)
        logits = scores.expand(-1, core.group, -1).flatten(0, 1)
        action = router.rule.sample(logits, router.rule.draw_noise(tuple(logits.shape), generator))
        experts, weights = router.rule.choice(logits, action)
        step = core.decide(experts, weights)
        core.clear(step.terminated)
        grouped = action.reshape(-1, core.group, action.shape[-1])
        chosen_log_prob = log_prob(router.rule, scores, grouped).flatten()
        share = step.parts["share"]
        columns.append((row, counts, action, share, chosen_log_prob, step.reward, step.terminated))
    return Trajectory(*(torch.stack(column) for column in zip(*columns, strict=True)))


def logits_of(router: Router, outcomes: Outcomes, row: Tensor, counts: Tensor) -> Tensor:
    """Return the policy's logits for G groups of L lanes; all lanes of a group have the same query.

    Args:
        router: the policy.
        outcomes: the rows that `row` indexes.
        row: [G, L] int64, rows of the queries, equal within a group.
        counts: [G * L, N] float32, the window's counts of each lane, divided by W.

    Returns:
        [G, 1, outputs] float32 if the router observes only the query, which is then scored once per group;
        [G, L, outputs] if it also observes the window.
    """
    if router.state:
        features = outcomes.features.index_select(0, row.flatten())
        return router.scores(features, counts).reshape(*row.shape, -1)
    return router.scores(outcomes.features.index_select(0, row[:, 0])).unsqueeze(1)


def log_prob(rule: Selection, logits: Tensor, action: Tensor) -> Tensor:
    """Return the log-probability [G, L] float32 of actions [G, L, ...] under logits [G, 1 or L, outputs]."""
    return rule.log_prob(logits if isinstance(rule, Hard) else logits.expand(*action.shape[:2], -1), action)


def rewards_to_go(reward: Tensor, last: Tensor, discount: float) -> Tensor:
    """Return the discounted rewards-to-go, `G_s = r_s + discount * G_{s+1}`, cut at the end of a window.

    Args:
        reward: [S, B] float32.
        last: [S, B] bool, True at the end of a window.
        discount: from 0 to 1.

    Returns:
        [S, B] float32.

    >>> rewards_to_go(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[False], [True], [False]]), 0.5)
    tensor([[2.],
            [2.],
            [4.]])
    """
    if not discount:
        return reward
    total = torch.zeros_like(reward)
    following = torch.zeros_like(reward[0])
    for step in reversed(range(len(reward))):
        following = reward[step] + discount * following * (~last[step]).float()
        total[step] = following
    return total


def leave_one_out(returns: Tensor, group: int) -> Tensor:
    """Return the advantage over the mean of the other lanes of a group, [S, B] float32.

    All lanes of a group receive the same queries, so that the difficulty of a query cancels. The baseline
    does not depend on the lane's own action, so the gradient is unbiased (Kool et al. 2019,
    https://openreview.net/forum?id=r1lgTGL5DE). With groups of one, the baseline is the mean of all other
    lanes, which receive other queries.

    Args:
        returns: [S, B] float, B a multiple of `group` and at least 2.
        group: lanes that share a query stream.

    >>> leave_one_out(torch.tensor([[1.0, 0.0, 0.5, 0.5]]), 2)
    tensor([[ 1., -1.,  0.,  0.]])
    >>> leave_one_out(torch.tensor([[3.0, 0.0, 0.0, 0.0]]), 1)
    tensor([[ 3., -1., -1., -1.]])
    """
    group = returns.shape[1] if group == 1 else group
    grouped = returns.reshape(len(returns), -1, group)
    others = (grouped.sum(dim=-1, keepdim=True) - grouped) / (group - 1)
    return (grouped - others).reshape(returns.shape)
