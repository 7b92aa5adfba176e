"""Rules of thumb, tuned on validation rows, and the bound that knows what will come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from envs.caching import CachingCore

from ...problems.caching.cache_episodes import Weights, utilities
from ...problems.caching.problem import CachingProblem
from ...routing.policies.caching_policy import ANSWER_INPUTS, KEEP_INPUTS, CachingPolicy

__all__ = [
    "CachedPolicy",
    "belady",
    "bonus",
    "fixed",
    "foresight",
    "index",
    "pinned",
    "served",
    "tuned",
    "weighted",
]

_TUNING, _STREAMS = 400_000, 24  # streams of the validation rows that candidates are tried on
_FINAL, _FINALISTS = 96, 8  # streams that choose among the best of them
_BONUSES = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
# Of the wait weight, that a wait counts when choosing.
_SHARES = (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)
_SERVES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)  # requests that a load is taken to serve
_KEEPS: tuple[Mapping[str, float], ...] = ({"recent": 1.0}, {"often": 1.0}, {"recent": 0.5, "often": 0.5})


@dataclass(frozen=True, kw_only=True)
class CachedPolicy:
    """A fitted method.

    Attributes:
        begin: what it does in an episode of a core, observations to actions.
        module: what is exported, if there is one.
    """

    begin: Callable[[CachingCore], Callable[[Tensor], Tensor]]
    module: CachingPolicy | None = None


def served(policy: CachingPolicy) -> CachedPolicy:
    """A policy of observations."""
    return CachedPolicy(begin=lambda core: lambda seen: policy.actions(seen)[0], module=policy)


def weighted(policy: CachingPolicy, answer: Mapping[str, float], keep: Mapping[str, float]) -> CachingPolicy:
    """The policy with these weights, and 0 for those not named."""
    return _set(policy, *_weights(answer, keep))


def tuned(problem: CachingProblem, share: float, weights: Weights) -> CachingPolicy:
    """The best of P weights on validation rows: all are tried, the first of them again on more streams."""
    policy = problem.policy(share)
    for streams, most in ((_STREAMS, _FINALISTS), (_FINAL, 1)):
        found = utilities(problem, share, "validation", policy, weights, streams=streams, seed=_TUNING)
        best = found.argsort(descending=True, stable=True)[:most]
        weights = Weights(weights.answer[best], weights.keep[best])
    return _set(policy, weights.answer[0], weights.keep[0])


def fixed(
    answer: Mapping[str, float], keep: Mapping[str, float]
) -> Callable[[CachingProblem, float], CachingPolicy]:
    """A rule with nothing to tune."""
    return lambda problem, share: weighted(problem.policy(share), answer, keep)


def bonus(problem: CachingProblem, share: float) -> CachingPolicy:
    """Worth, with a bonus for those that are resident."""
    return _best(
        problem, share, [({"worth": 1.0, "resident": one}, keep) for one, keep in product(_BONUSES, _KEEPS)]
    )


def index(problem: CachingProblem, share: float) -> CachingPolicy:
    """Worth less a share of the wait."""
    unit = problem.configs[share].wait_weight
    tried = [({"worth": 1.0, "wait": -part * unit}, keep) for part, keep in product(_SHARES, _KEEPS)]
    return _best(problem, share, tried)


def foresight(problem: CachingProblem, share: float) -> CachingPolicy:
    """The index, and what a load would bring on the next requests; the best for those may stay."""
    unit = problem.configs[share].wait_weight
    keeps = (*_KEEPS, {"later": 1.0}, {"often": 1.0, "later": 1.0})
    tried = [
        ({"worth": 1.0, "wait": -part * unit, "gain": serves}, keep)
        for part, serves, keep in product(_SHARES[2::2], _SERVES, keeps)
    ]
    return _best(problem, share, tried)


def pinned(problem: CachingProblem, share: float) -> CachingPolicy:
    """Hold the experts that the router without a memory asks most, and ask nobody else."""
    policy = weighted(problem.policy(share), {"worth": 1.0, "wait": -1e-3}, {"recent": 1.0})
    demand = (problem.chance["train"] - policy.price).argmax(dim=-1)
    popular = demand.bincount(minlength=len(problem.names)).argsort(descending=True, stable=True)
    table = problem.rows[share, "train"]
    fits = table.size[popular].cumsum(0) <= table.gpu_bytes
    policy.allowed.fill_(False)
    policy.allowed[popular[fits]] = True
    return policy


def belady(problem: CachingProblem, share: float) -> CachedPolicy:
    """Answer as a router without a memory would, and drop whoever is needed last: it knows what will come.

    Source: Belady 1966, https://doi.org/10.1147/sj.52.0078. It makes the fewest loads for those answers where
    all experts are as large; answers that wait less may still earn more.
    """
    policy = weighted(problem.policy(share), {"worth": 1.0}, {})
    return CachedPolicy(begin=lambda core: _clairvoyant(policy, core))


def _clairvoyant(policy: CachingPolicy, core: CachingCore) -> Callable[[Tensor], Tensor]:
    rows = core.requests()
    chance = policy.beliefs.prior(core.table.outcomes.features).sigmoid()
    demand = (chance - policy.price)[rows].argmax(dim=-1)  # [B, W]
    window = demand.shape[1]
    later = torch.full((core.lanes, core.experts), float(window))
    upcoming = [later]
    for at in reversed(range(window)):
        later = later.scatter(-1, demand[:, at : at + 1], float(at))
        upcoming.append(later)
    upcoming.reverse()  # upcoming[t] [B, N]: when each is next needed, from t on

    def actions(seen: Tensor) -> Tensor:
        at = int(core.state.decisions[0])
        answer = demand[:, at]
        due = torch.where(core.state.resident, upcoming[at + 1], -1.0)
        due = due.scatter(-1, answer.unsqueeze(-1), -1.0)
        return torch.stack([answer, due.argmax(dim=-1)], dim=-1)

    return actions


def _best(
    problem: CachingProblem,
    share: float,
    tried: Sequence[tuple[Mapping[str, float], Mapping[str, float]]],
) -> CachingPolicy:
    each = [_weights(answer, keep) for answer, keep in tried]
    return tuned(problem, share, Weights(*(torch.tensor(part) for part in zip(*each, strict=True))))


def _weights(answer: Mapping[str, float], keep: Mapping[str, float]) -> tuple[list[float], list[float]]:
    return [answer.get(name, 0.0) for name in ANSWER_INPUTS], [keep.get(name, 0.0) for name in KEEP_INPUTS]


def _set(
    policy: CachingPolicy, answer: Sequence[float] | Tensor, keep: Sequence[float] | Tensor
) -> CachingPolicy:
    policy.answer.copy_(torch.as_tensor(answer))
    policy.keep.copy_(torch.as_tensor(keep))
    return policy
