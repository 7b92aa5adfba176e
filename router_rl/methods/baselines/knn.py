"""k nearest neighbours: an expert's score is its mean utility on the most similar training queries.

Source: Cover and Hart 1967, https://doi.org/10.1109/TIT.1967.1053964; as a router, Li 2025,
https://arxiv.org/abs/2505.12601. The router stores every training query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from envs.reward import expert_utility
from experts.io.value_range import Count

from ...problems.routing.problem import RoutingProblem
from ...routing import KNNScorer, Router, StoredRowsScorer
from ..hyperparameters import Hyperparameters
from ..method import Method, Run

__all__ = ["METHOD", "SPACE", "KNNHyperparameters", "fit", "leave_one_out"]


@dataclass(frozen=True, kw_only=True)
class KNNHyperparameters(Hyperparameters):
    """Hyperparameters of the nearest-neighbours router.

    Attributes:
        neighbours: number of neighbours k; all training queries if there are fewer.
        metric: `euclidean` or `cosine` distance on standardised features.
    """

    neighbours: Count = 20
    metric: Literal["euclidean", "cosine"] = "euclidean"


SPACE = {"neighbours": (5, 10, 20, 40, 80), "metric": ("euclidean", "cosine")}


def fit(problem: RoutingProblem, hyperparameters: KNNHyperparameters, run: Run) -> Router:
    """Store the training queries with each expert's utility; the logits are mean utilities."""
    outcomes = problem.outcomes()
    utility = expert_utility(outcomes, problem.objective.compute_weight)
    values = problem.rule.lift(utility, temperature=0.0)
    neighbours = min(hyperparameters.neighbours, outcomes.queries)
    scorer = KNNScorer(
        outcomes.features.shape[1], values.shape[1], outcomes.queries, neighbours, hyperparameters.metric
    )
    router = problem.wrap(scorer)
    scorer.store(outcomes.features, values)
    return router.eval()


def leave_one_out(router: Router) -> Tensor:
    """Return the logits [T, outputs] of the stored rows, each without its own value."""
    scorer = router.scorer
    assert isinstance(scorer, StoredRowsScorer)
    return scorer.leave_one_out()


METHOD = Method(
    name="knn",
    family="baseline",
    fit=fit,
    hyperparameters=KNNHyperparameters,
    space=SPACE,
    about="mean utility on the nearest training queries",
    sparse=True,
    leave_one_out=leave_one_out,
)
