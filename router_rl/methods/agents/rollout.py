"""Rollouts of a router's policy on device, with the environment's own rewards and query streams."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from envs import Outcomes
from envs.reward import shares, utility
from envs.routing import RoutingState, initial_state, next_query, start_windows
from envs.window import load_penalty

from ...problems.objective import Objective
from ...routing import Hard, Router, Selection
from .expectation import RewardTable

__all__ = [
    "Trajectory",
    "collect_rollout",
    "initial_lanes",
    "leave_one_out",
    "log_prob",
    "logits_of",
    "rewards_to_go",
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


def initial_lanes(outcomes: Outcomes, lanes: int, group: int, seed: int) -> RoutingState:
    """Return lanes at the start of a window; all lanes of a group receive the same queries.

    Args:
        outcomes: the rows to sample queries from.
        lanes: B, a multiple of `group`.
        group: lanes that share a query stream.
        seed: seed of the first group's stream.
    """
    seeds = torch.arange(lanes, dtype=torch.int64, device=outcomes.quality.device) // group + seed
    return initial_state(outcomes, seeds)


@torch.no_grad()
def collect_rollout(
    router: Router,
    rewards: RewardTable,
    objective: Objective,
    state: RoutingState,
    steps: int,
    generator: torch.Generator,
    group: int = 1,
) -> tuple[RoutingState, Trajectory]:
    """Collect S decisions in every lane with the current policy.

    Args:
        router: the policy; it observes the window's counts if it has state.
        rewards: rewards of all experts on the rows.
        objective: gives the load weight and the window.
        state: current state of the lanes.
        steps: S.
        generator: random generator of the actions.
        group: lanes that share a query stream.

    Returns:
        the new state of the lanes, and the trajectory.
    """
    outcomes, window = rewards.outcomes, objective.window
    columns: list[tuple[Tensor, ...]] = []
    for _ in range(steps):
        counts = state.counts / window
        scores = logits_of(router, outcomes, state.row.reshape(-1, group), counts)
        logits = scores.expand(-1, group, -1).flatten(0, 1)
        action = router.rule.sample(logits, router.rule.draw_noise(tuple(logits.shape), generator))
        experts, weights = router.rule.choice(logits, action)
        reward = rewards.mixture(state.row, experts, weights)
        share = shares(experts, outcomes.experts)
        if objective.load_weight:
            load = load_penalty(state.counts, state.decisions, share, window)
            reward = utility({"quality": reward, "load": load}, {"load": objective.load_weight})
        after = next_query(outcomes, state, share)
        last = after.decisions >= window
        chosen_log_prob = log_prob(router.rule, scores, action.reshape(-1, group, action.shape[-1])).flatten()
        columns.append((state.row, counts, action, share, chosen_log_prob, reward, last))
        state = start_windows(after, last)
    return state, Trajectory(*(torch.stack(column) for column in zip(*columns, strict=True)))


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
