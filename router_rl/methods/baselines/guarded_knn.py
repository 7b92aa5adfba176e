"""k nearest neighbours with a guard: the best single expert, except where another is significantly better.

Another expert answers only where its paired gain over the best single expert, on the nearest training
queries, is above 0 by a one-sided t-test. With several such experts, the one with the highest lower
confidence bound answers. Where neighbours say little, plain `knn` follows their noise; this rule does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from scipy.stats import t as student_t

from envs.reward import expert_utility
from experts.io.value_range import Count, Range

from ...problems.routing.problem import RoutingProblem
from ...routing import GuardedKNNScorer, Router
from ..hyperparameters import Hyperparameters
from ..method import Method, Run

__all__ = ["METHOD", "SPACE", "GuardedKNNHyperparameters", "fit"]


@dataclass(frozen=True, kw_only=True)
class GuardedKNNHyperparameters(Hyperparameters):
    """Hyperparameters of the guarded nearest-neighbours router.

    Attributes:
        neighbours: number of neighbours k; all training queries if there are fewer.
        level: level of the one-sided test, above 0, at most 0.5; 0.5 compares means.
        metric: `euclidean` or `cosine` distance on standardised features.
    """

    neighbours: Count = 40
    level: Annotated[float, Range(0.0, 0.5, above=True)] = 0.1
    metric: Literal["euclidean", "cosine"] = "euclidean"


SPACE = {
    "neighbours": (10, 20, 40, 80, 160),
    "level": (0.01, 0.05, 0.1, 0.2, 0.35),
    "metric": ("euclidean", "cosine"),
}


def fit(problem: RoutingProblem, hyperparameters: GuardedKNNHyperparameters, run: Run) -> Router:
    """Store the training queries with each expert's gain over the best single expert."""
    outcomes = problem.outcomes()
    utility = expert_utility(outcomes, problem.objective.compute_weight)
    neighbours = min(hyperparameters.neighbours, outcomes.queries)
    # k - 1 degrees of freedom, and one of the overall variance.
    critical = float(student_t.isf(hyperparameters.level, neighbours))
    scorer = GuardedKNNScorer(
        outcomes.features.shape[1],
        outcomes.experts,
        outcomes.queries,
        neighbours,
        hyperparameters.metric,
        int(problem.mean_utility().argmax()),
        max(critical, 0.0),
    )
    router = problem.wrap(scorer)
    scorer.store(outcomes.features, utility)
    return router.eval()


METHOD = Method(
    name="guarded_knn",
    family="baseline",
    fit=fit,
    hyperparameters=GuardedKNNHyperparameters,
    space=SPACE,
    about="best single expert unless knn is significantly better",
    selections=("hard", "topk"),
)
