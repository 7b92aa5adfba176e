"""PPO that corrects the strongest rule of queues: the index with the prices of the cross-entropy method."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from ...problems.queueing.problem import QueueingProblem
from ..agents.residual_ppo import ResidualPPOHyperparameters, residual_ppo
from ..method import Run
from .index_router import scorer_of
from .price_search import METHOD as SEARCH
from .price_search import PriceHyperparameters, fit_prices

__all__ = ["METHOD", "QueueResidualHyperparameters"]


@dataclass(frozen=True, kw_only=True)
class QueueResidualHyperparameters(ResidualPPOHyperparameters):
    """Hyperparameters of PPO from the rule of queues.

    Attributes:
        rule: hyperparameters of the search for the rule's prices.
    """

    rule: PriceHyperparameters = field(default_factory=PriceHyperparameters)


def _rule(
    problem: QueueingProblem, hyperparameters: QueueResidualHyperparameters, seed: int
) -> tuple[nn.Module, str]:
    return scorer_of(fit_prices(problem, hyperparameters.rule, Run(seed=seed))), SEARCH.name


METHOD = residual_ppo(_rule, SEARCH.name, QueueResidualHyperparameters)
