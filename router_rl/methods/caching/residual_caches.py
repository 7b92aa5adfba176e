"""PPO that corrects the strongest rule of caches: the weights that the cross-entropy method found."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from ...problems.caching.problem import CachingProblem
from ..agents.residual_ppo import ResidualPPOHyperparameters, residual_ppo
from ..method import Run
from .cache_search import METHOD as SEARCH
from .cache_search import SearchHyperparameters, fit

__all__ = ["METHOD", "CacheResidualHyperparameters"]


@dataclass(frozen=True, kw_only=True)
class CacheResidualHyperparameters(ResidualPPOHyperparameters):
    """Hyperparameters of PPO from the rule of caches.

    Attributes:
        rule: hyperparameters of the search for the rule's weights.
    """

    rule: SearchHyperparameters = field(default_factory=SearchHyperparameters)


def _rule(
    problem: CachingProblem, hyperparameters: CacheResidualHyperparameters, seed: int
) -> tuple[nn.Module, str]:
    rule = fit(problem, hyperparameters.rule, Run(seed=seed)).module
    assert rule is not None
    return rule, SEARCH.name


METHOD = residual_ppo(_rule, SEARCH.name, CacheResidualHyperparameters)
