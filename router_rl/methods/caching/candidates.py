"""Measure many weights of a caching policy on the same requests, and choose the best on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from envs.caching import CachingCore, memories

from ...problems.caching.problem import CachingProblem
from ...routing.policies.caching_policy import ANSWER_INPUTS, KEEP_INPUTS, CachingPolicy

__all__ = [
    "Weights",
    "best_weights",
    "utilities",
    "validation_utilities",
    "weighted",
    "weights_of",
    "with_weights",
]

_SEED, _STREAMS = 400_000, 24  # of the validation episodes that all candidates run
_FINAL_STREAMS, _FINALISTS = 96, 8  # episodes that choose among the best candidates


class Weights(NamedTuple):
    """P candidates: `answer` [P, 8] and `keep` [P, 5] of `CachingPolicy`."""

    answer: Tensor
    keep: Tensor


def weights_of(candidates: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> Weights:
    """Return candidates from the weights of answering and of keeping by name; those not named are 0."""
    answer = [[given.get(name, 0.0) for name in ANSWER_INPUTS] for given, _ in candidates]
    keep = [[given.get(name, 0.0) for name in KEEP_INPUTS] for _, given in candidates]
    return Weights(torch.tensor(answer), torch.tensor(keep))


def weighted(policy: CachingPolicy, answer: Mapping[str, float], keep: Mapping[str, float]) -> CachingPolicy:
    """Set a policy's weights by name, and those not named to 0; returns the policy."""
    weights = weights_of([(answer, keep)])
    return with_weights(policy, weights.answer[0], weights.keep[0])


def with_weights(policy: CachingPolicy, answer: Tensor, keep: Tensor) -> CachingPolicy:
    """Set a policy's weights [8] and [5]; returns the policy."""
    policy.answer.copy_(answer)
    policy.keep.copy_(keep)
    return policy


def best_weights(problem: CachingProblem, weights: Weights) -> CachingPolicy:
    """Return the candidate with the highest utility on validation rows. The best ones run more episodes.

    Args:
        problem: with one case.
        weights: P candidates.
    """
    policy = problem.policy(problem.case)
    for streams, kept in ((_STREAMS, _FINALISTS), (_FINAL_STREAMS, 1)):
        utility = utilities(problem, "validation", policy, weights, streams=streams, seed=_SEED)
        best = utility.argsort(descending=True, stable=True)[:kept]
        weights = Weights(weights.answer[best], weights.keep[best])
    return with_weights(policy, weights.answer[0], weights.keep[0])


def validation_utilities(problem: CachingProblem, policy: CachingPolicy, weights: Weights) -> Tensor:
    """Return the utility per request of candidates in each validation episode, [24, P] float32.

    Args:
        problem: with one case.
        policy: gives the prices and the mask of allowed experts.
        weights: P candidates.
    """
    totals = _totals(problem, "validation", policy, weights, streams=_STREAMS, seed=_SEED)
    return totals / problem.config(problem.case).window


def utilities(
    problem: CachingProblem,
    split: str,
    policy: CachingPolicy,
    weights: Weights,
    *,
    streams: int,
    seed: int,
) -> Tensor:
    """Return the mean utility per request of candidates on the same requests, [P] float32.

    Args:
        problem: with one case.
        split: split that the requests are drawn from.
        policy: gives the prices and the mask of allowed experts.
        weights: P candidates.
        streams: number of episodes of each candidate.
        seed: random seed of the requests.
    """
    totals = _totals(problem, split, policy, weights, streams=streams, seed=seed)
    return totals.mean(dim=0) / problem.config(problem.case).window


def _totals(
    problem: CachingProblem,
    split: str,
    policy: CachingPolicy,
    weights: Weights,
    *,
    streams: int,
    seed: int,
) -> Tensor:
    """Return the sum of the rewards of each episode, [streams, P] float32; arguments as for `utilities`."""
    count = len(weights.answer)
    config, table = problem.config(problem.case), problem.rows(problem.case, split)
    core = CachingCore(table, config, count * streams, seed=seed, group=count)
    answer, keep = weights.answer.repeat(streams, 1), weights.keep.repeat(streams, 1)
    chance, later, total = problem.chance[split], problem.later[split], torch.zeros(count * streams)
    for _ in range(config.window):
        state = core.state
        inputs = (chance[state.row], later[state.row], *memories(table, config, state))
        total += core.step(policy.choose(*inputs, weights=(answer, keep))).reward
    return total.view(streams, count)
