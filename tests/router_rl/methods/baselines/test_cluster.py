"""The cluster router: shrunken means of k-means clusters, averaged over the nearest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl import Objective, export, fit
from router_rl.methods.baselines.cluster import centroids
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import KNNScorer

OBJECTIVE = Objective(compute_weight=0.05)


@pytest.mark.parametrize("nearest", [1, 2])
def test_a_query_takes_the_shrunken_means_of_its_nearest_clusters(kinds: OutcomeTable, nearest: int) -> None:
    values = {"clusters": 6, "nearest": nearest, "metric": "euclidean", "strength": 3.0}
    router = fit("cluster", RoutingProblem(kinds, OBJECTIVE), hyperparameters=values)
    train, test = kinds.part("train"), kinds.part("test")
    assert train.features is not None
    assert test.features is not None
    mean, deviation = train.features.mean(axis=0), train.features.std(axis=0)
    centre, cluster = centroids(((train.features - mean) / deviation).astype(np.float32), 6, 0)
    utility = train.quality.astype(float) - 0.05 * train.cost / 10
    overall = utility.mean(axis=0)
    means = np.stack(
        [
            (utility[cluster == each].sum(axis=0) + 3.0 * overall) / ((cluster == each).sum() + 3.0)
            for each in range(6)
        ]
    )
    x = (test.features - mean) / deviation
    order = np.argsort(((x[:, None] - centre[None]) ** 2).sum(axis=-1), axis=1)[:, :nearest]
    with torch.inference_mode():
        found = router(torch.tensor(test.features)).logits.numpy()
    np.testing.assert_allclose(found, means[order].mean(axis=1), atol=1e-4)


def test_every_cluster_has_points() -> None:
    """Three distinct points cannot make five clusters."""
    points = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    centre, cluster = centroids(points, 5, 0)
    assert len(centre) == 3
    np.testing.assert_allclose(centre[cluster], points, atol=1e-6)


def test_more_clusters_than_rows_and_equal_rows(kinds: OutcomeTable) -> None:
    equal = replace(kinds, features=np.ones_like(kinds.features))
    router = fit("cluster", RoutingProblem(equal, OBJECTIVE), hyperparameters={"clusters": 9999})
    assert isinstance(router.scorer, KNNScorer)
    assert (router.scorer.rows, router.scorer.neighbours) == (1, 1)


@pytest.mark.parametrize("format", ["safetensors", "pt2"])
def test_the_export_carries_the_centroids_alone(kinds: OutcomeTable, tmp_path: Path, format: str) -> None:
    router = fit("cluster", RoutingProblem(kinds, OBJECTIVE), hyperparameters={"clusters": 5})
    assert export(router, tmp_path / "out", format=format, rows=kinds).passed
    assert sum(parameter.numel() for parameter in router.parameters()) == 5 * (4 + 4)
