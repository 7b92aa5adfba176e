"""Caching rules, tuned on validation rows: eviction policies, cache-aware bonuses, and indexes of the wait.

All are weights of `CachingPolicy`. They use no seed, so each is tuned once for every size of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

from ...problems.caching.problem import CachingProblem
from ...problems.problem import ActionPolicy
from ...routing.policies.caching_policy import CachingPolicy
from ..method import Method, NoHyperparameters, Run
from .candidates import best_weights, weighted, weights_of

__all__ = ["METHODS", "exported", "tuned_bonus", "tuned_foresight", "tuned_index", "tuned_pinned"]

_BONUSES = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
# A wait counts these fractions of the wait weight in the choice.
_WAIT_SHARES = (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)
_SERVES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)  # number of requests that a load is assumed to serve
_KEEPS: tuple[Mapping[str, float], ...] = ({"recent": 1.0}, {"often": 1.0}, {"recent": 0.5, "often": 0.5})

Rule = Callable[[CachingProblem], CachingPolicy]


def tuned_bonus(problem: CachingProblem) -> CachingPolicy:
    """Return the expert of the highest worth, with a tuned bonus for resident ones."""
    candidates = [({"worth": 1.0, "resident": bonus}, keep) for bonus, keep in product(_BONUSES, _KEEPS)]
    return best_weights(problem, weights_of(candidates))


def tuned_index(problem: CachingProblem) -> CachingPolicy:
    """Return the expert of the highest worth minus a tuned share of its wait."""
    unit = problem.options.wait_weight
    candidates = [
        ({"worth": 1.0, "wait": -share * unit}, keep) for share, keep in product(_WAIT_SHARES, _KEEPS)
    ]
    return best_weights(problem, weights_of(candidates))


def tuned_foresight(problem: CachingProblem) -> CachingPolicy:
    """Return the tuned index that adds the gain of a load on the next requests, and can keep experts."""
    unit = problem.options.wait_weight
    keeps = (*_KEEPS, {"later": 1.0}, {"often": 1.0, "later": 1.0})
    candidates = [
        ({"worth": 1.0, "wait": -share * unit, "gain": serves}, keep)
        for share, serves, keep in product(_WAIT_SHARES[2::2], _SERVES, keeps)
    ]
    return best_weights(problem, weights_of(candidates))


def tuned_pinned(problem: CachingProblem) -> CachingPolicy:
    """Keep the experts that a router without a memory limit asks most, and ask no others."""
    policy = weighted(problem.policy(problem.case), {"worth": 1.0, "wait": -1e-3}, {"recent": 1.0})
    demand = (problem.chance["train"] - policy.price).argmax(dim=-1)
    popular = demand.bincount(minlength=len(problem.experts)).argsort(descending=True, stable=True)
    table = problem.rows(problem.case, "train")
    fits = table.size[popular].cumsum(0) <= table.gpu_bytes
    policy.allowed.fill_(False)
    policy.allowed[popular[fits]] = True
    return policy


def exported(policy: CachingPolicy) -> ActionPolicy:
    """Return a caching policy with itself as the module that is exported."""
    return ActionPolicy(actions=policy.act, module=policy)


def _fixed(answer: Mapping[str, float], keep: Mapping[str, float]) -> Rule:
    """Return a rule without anything to tune."""
    return lambda problem: weighted(problem.policy(problem.case), answer, keep)


def _method(name: str, about: str, rule: Rule) -> Method:
    def fit(problem: CachingProblem, hyperparameters: NoHyperparameters, run: Run) -> ActionPolicy:
        key = ("rule", name, problem.case.values["resident_share"])
        return exported(problem.cached(key, lambda: rule(problem)))

    return Method(name=name, family="baseline", fit=fit, about=about)


METHODS = (
    _method(
        "lru",
        "run the best expert; evict the least recently used one",
        _fixed({"worth": 1.0}, {"recent": 1.0}),
    ),
    _method(
        "lfu",
        "run the best expert; evict the least frequently used one",
        _fixed({"worth": 1.0}, {"often": 1.0}),
    ),
    _method("pinned", "keep the most used experts in memory; run no others", tuned_pinned),
    _method("bonus", "predicted utility plus a tuned bonus for resident experts", tuned_bonus),
    _method("index", "predicted utility minus a tuned share of the wait", tuned_index),
    _method("foresight", "the index, plus what a load gains on the next requests", tuned_foresight),
)
