"""Cluster router: k-means clusters of the training queries, and each expert's mean utility in each cluster.

A query takes the mean over the p clusters with the nearest centroids. A cluster's means are shrunk to the
overall means, as those of `group_label` are, so that small clusters rely on all rows. (Avengers-Pro scores
an expert by `alpha * accuracy - (1 - alpha) * cost`, each normalised by cluster; here by the objective's
utility.) `centroid` is another rule: it has one centroid for each expert, not for each cluster.

Source: Zhang et al. 2025, Beyond GPT-5 (Avengers-Pro), https://arxiv.org/abs/2508.12631.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from envs.reward import expert_utility
from experts.io.value_range import Count, NonNegative

from ...problems.routing.problem import RoutingProblem
from ...problems.shrunken_means import shrunken_means
from ...routing import KNNScorer, Router
from ..hyperparameters import Hyperparameters
from ..method import Method, Run

__all__ = ["METHOD", "SPACE", "ClusterHyperparameters", "centroids", "fit"]


@dataclass(frozen=True, kw_only=True)
class ClusterHyperparameters(Hyperparameters):
    """Hyperparameters of the cluster router.

    Attributes:
        clusters: number of k-means clusters; one per training query if there are fewer queries.
        nearest: number p of nearest clusters that a query is averaged over.
        metric: `cosine`: queries are scaled to length 1 first, as in the paper; or `euclidean`.
        strength: shrinkage of a cluster's means to the overall means, in rows; at least 0.
    """

    clusters: Count = 60
    nearest: Count = 4
    metric: Literal["euclidean", "cosine"] = "cosine"
    strength: NonNegative = 5.0


SPACE = {
    "clusters": (15, 30, 60, 120),
    "nearest": (1, 2, 4),
    "metric": ("cosine", "euclidean"),
    "strength": (1.0, 5.0, 20.0),
}


def fit(problem: RoutingProblem, hyperparameters: ClusterHyperparameters, run: Run) -> Router:
    """Cluster the training queries and store each centroid with the cluster's mean utilities."""
    outcomes = problem.outcomes()
    utility = expert_utility(outcomes, problem.objective.compute_weight).double()

    def wrapped(count: int) -> tuple[Router, KNNScorer]:
        nearest = min(hyperparameters.nearest, count)
        outputs = problem.rule.outputs(outcomes.experts)
        scorer = KNNScorer(outcomes.features.shape[1], outputs, count, nearest, hyperparameters.metric)
        return problem.wrap(scorer), scorer

    count = min(hyperparameters.clusters, outcomes.queries)
    points = wrapped(count)[1].placed(outcomes.features)
    centroid, cluster = centroids(points.cpu().numpy(), count, run.seed)
    router, scorer = wrapped(len(centroid))
    rows = torch.from_numpy(cluster).to(problem.device)
    means = shrunken_means(utility, rows, len(centroid), hyperparameters.strength)[:-1]
    with torch.no_grad():
        scorer.queries.copy_(torch.from_numpy(centroid))
        scorer.values.copy_(problem.rule.lift(means, temperature=0.0))
    return router.eval()


def centroids(points: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the centroids of the k-means clusters that have points, and the cluster of each point.

    Args:
        points: [T, D] float32.
        count: number of clusters, 1 to T; there are fewer if fewer points are distinct.
        seed: random seed of the initial centroids.

    Returns:
        [K, D] float32 and [T] int64, 0 to K - 1, each present.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        means: Any = KMeans(n_clusters=count, n_init="auto", random_state=seed).fit(points)
    present, cluster = np.unique(means.labels_, return_inverse=True)
    return means.cluster_centers_[present], cluster.astype(np.int64)


METHOD = Method(
    name="cluster",
    family="baseline",
    fit=fit,
    hyperparameters=ClusterHyperparameters,
    space=SPACE,
    about="mean utility by k-means cluster (Zhang et al. 2025)",
    sparse=True,
)
