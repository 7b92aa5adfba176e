"""The methods of caching by name. A new one is a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ...problems.caching.cache_episodes import Weights
from ...problems.caching.problem import CachingProblem
from ...problems.problem import Case, EnvMethod, Tell
from ...routing.policies.caching_policy import CachingPolicy
from . import cache_rules as rules
from .cache_rules import CachedPolicy, served, tuned
from .cache_search import SearchHyperparameters, search

__all__ = ["METHODS"]

# The first is the default; the others are tried in order.
_TRIES = (
    SearchHyperparameters(),
    SearchHyperparameters(streams=16),
    SearchHyperparameters(population=64, elite=12),
    SearchHyperparameters(pace=0.4, generations=36),
)

_Fit = Callable[[CachingProblem, Sequence[Case], int, int, Tell], Sequence[CachedPolicy]]


def _rule(rule: Callable[[CachingProblem, float], CachingPolicy | CachedPolicy]) -> _Fit:
    """A rule knows no seed: made once for every size of memory."""

    def fit(
        problem: CachingProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
    ) -> list[CachedPolicy]:
        found: list[CachedPolicy] = []
        for case in cases:
            key = (rule, case.values["resident_share"])
            if key not in problem.rules:
                made = rule(problem, case.values["resident_share"])
                problem.rules[key] = served(made) if isinstance(made, CachingPolicy) else made
            found.append(problem.rules[key])
        return found

    return fit


def _cross_entropy(
    problem: CachingProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
) -> list[CachedPolicy]:
    """A search for every size of memory, the best of some settings on validation."""
    policies: list[CachedPolicy] = []
    total = len(cases) * sum(settings.generations for settings in _TRIES[:tries])
    done = 0
    for case in cases:
        share, found = case.values["resident_share"], []
        for settings in _TRIES[:tries]:

            def told(generation: int, best: float, done: int = done, case: Case = case) -> None:
                tell(done + generation, total, f"{case.label}: best of this generation {best:.4f}")

            found.append(search(problem, share, settings, seed, told))
            done += settings.generations
        both = Weights(*(torch.stack([getattr(one, name) for one in found]) for name in ("answer", "keep")))
        policies.append(served(tuned(problem, share, both)))
    return policies


METHODS: dict[str, EnvMethod] = {
    method.name: method
    for method in (
        EnvMethod(
            name="cross_entropy",
            family="rl",
            about="policy search from the tuned rule of foresight (Szita & Lorincz 2006)",
            fit=_cross_entropy,
        ),
        EnvMethod(
            name="lru",
            family="baseline",
            about="answer as without a memory; the least recently used goes",
            fit=_rule(rules.fixed({"worth": 1.0}, {"recent": 1.0})),
        ),
        EnvMethod(
            name="lfu",
            family="baseline",
            about="answer as without a memory; the least often used goes",
            fit=_rule(rules.fixed({"worth": 1.0}, {"often": 1.0})),
        ),
        EnvMethod(
            name="pinned",
            family="baseline",
            about="the most popular experts stay, nobody else is asked",
            fit=_rule(rules.pinned),
        ),
        EnvMethod(
            name="bonus",
            family="baseline",
            about="a tuned bonus for resident experts",
            fit=_rule(rules.bonus),
        ),
        EnvMethod(
            name="index",
            family="baseline",
            about="worth less a tuned share of the wait",
            fit=_rule(rules.index),
        ),
        EnvMethod(
            name="foresight",
            family="baseline",
            about="the index, and what a load would bring on the next requests",
            fit=_rule(rules.foresight),
        ),
        EnvMethod(
            name="belady",
            family="bound",
            about="answer as without a memory; whoever is needed last goes (Belady 1966)",
            fit=_rule(rules.belady),
        ),
    )
}
