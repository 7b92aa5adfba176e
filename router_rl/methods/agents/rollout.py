"""Play a router's policy on device: the environment's own reward and streams, tensors throughout."""

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
from .expectation import Payment

__all__ = ["Trajectory", "fresh", "leave_one_out", "log_prob", "logits_of", "play", "rewards_to_go"]


class Trajectory(NamedTuple):
    """S decisions in each of B lanes.

    Attributes:
        row: [S, B] int64, the queries.
        counts: [S, B, N] float32, what the window had seen before each decision, over W.
        action: [S, B, ...], what the rule drew.
        share: [S, B, N] float32, how it divided among the experts.
        log_prob: [S, B] float32 of drawing it.
        reward: [S, B] float32.
        last: [S, B] bool, True where a window ended.
    """

    row: Tensor
    counts: Tensor
    action: Tensor
    share: Tensor
    log_prob: Tensor
    reward: Tensor
    last: Tensor


def fresh(outcomes: Outcomes, lanes: int, group: int, seed: int) -> RoutingState:
    """Lanes at the start of a window; each group of lanes draws the same queries.

    Args:
        outcomes: the rows to play on.
        lanes: B, a multiple of `group`.
        group: lanes that share a stream.
        seed: of the first group's stream.
    """
    seeds = torch.arange(lanes, dtype=torch.int64, device=outcomes.quality.device) // group + seed
    return initial_state(outcomes, seeds)


@torch.no_grad()
def play(
    router: Router,
    payment: Payment,
    objective: Objective,
    state: RoutingState,
    steps: int,
    generator: torch.Generator,
    group: int = 1,
) -> tuple[RoutingState, Trajectory]:
    """Play S decisions in every lane with the policy.

    Args:
        router: draws from its rule; it sees the window's counts if it has state.
        payment: what the experts that run earn.
        objective: its load weight and window.
        state: where the lanes stand.
        steps: S.
        generator: of the draws.
        group: lanes that share a stream.

    Returns:
        where the lanes stand afterwards, and the trajectory.
    """
    outcomes, window = payment.outcomes, objective.window
    seen: list[tuple[Tensor, ...]] = []
    for _ in range(steps):
        counts = state.counts / window
        scores = logits_of(router, outcomes, state.row.reshape(-1, group), counts)
        logits = scores.expand(-1, group, -1).flatten(0, 1)
        action = router.rule.sample(logits, router.rule.draw_noise(tuple(logits.shape), generator))
        experts, weights = router.rule.choice(logits, action)
        reward = payment.of(state.row, experts, weights)
        share = shares(experts, outcomes.experts)
        if objective.load_weight:
            load = load_penalty(state.counts, state.decisions, share, window)
            reward = utility({"quality": reward, "load": load}, {"load": objective.load_weight})
        after = next_query(outcomes, state, share)
        last = after.decisions >= window
        chance = log_prob(router.rule, scores, action.reshape(-1, group, action.shape[-1])).flatten()
        seen.append((state.row, counts, action, share, chance, reward, last))
        state = start_windows(after, last)
    return state, Trajectory(*(torch.stack(column) for column in zip(*seen, strict=True)))


def logits_of(router: Router, outcomes: Outcomes, row: Tensor, counts: Tensor) -> Tensor:
    """The policy's logits for G groups of L lanes, each group asked the same query.

    Args:
        router: the policy.
        outcomes: the rows played on.
        row: [G, L] int64, the queries; a group's are the same.
        counts: [G * L, N] float32, the window's counts over W of each lane.

    Returns:
        [G, 1, outputs] float32, to be expanded, where the router sees the query alone and need score it
        only once; [G, L, outputs] where it sees the lane's window too.
    """
    if router.state:
        features = outcomes.features.index_select(0, row.flatten())
        return router.scores(features, counts).reshape(*row.shape, -1)
    return router.scores(outcomes.features.index_select(0, row[:, 0])).unsqueeze(1)


def log_prob(rule: Selection, logits: Tensor, action: Tensor) -> Tensor:
    """Log-probability [G, L] float32 of actions [G, L, ...] under logits [G, 1 or L, outputs]."""
    return rule.log_prob(logits if isinstance(rule, Hard) else logits.expand(*action.shape[:2], -1), action)


def rewards_to_go(reward: Tensor, last: Tensor, discount: float) -> Tensor:
    """`G_s = r_s + discount * G_{s+1}`, cut where a window ends; [S, B] float32.

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
    """Advantage over the mean of the other lanes of a group: [S, B] float32.

    The lanes of a group were asked the same queries, so what is hard about a query cancels; the baseline
    does not depend on the lane's own draw, so the gradient has no bias (Kool et al. 2019,
    https://openreview.net/forum?id=r1lgTGL5DE). A group of one has no others: its baseline is the mean of
    all other lanes, which were asked other queries, so nothing is ever asked twice at once.

    Args:
        returns: [S, B] float, B a multiple of `group` and at least 2.
        group: lanes that share a stream.

    >>> leave_one_out(torch.tensor([[1.0, 0.0, 0.5, 0.5]]), 2)
    tensor([[ 1., -1.,  0.,  0.]])
    >>> leave_one_out(torch.tensor([[3.0, 0.0, 0.0, 0.0]]), 1)
    tensor([[ 3., -1., -1., -1.]])
    """
    group = returns.shape[1] if group == 1 else group
    grouped = returns.reshape(len(returns), -1, group)
    others = (grouped.sum(dim=-1, keepdim=True) - grouped) / (group - 1)
    return (grouped - others).reshape(returns.shape)
