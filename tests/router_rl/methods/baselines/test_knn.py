"""Nearest neighbours, against scikit-learn's, and what the router weighs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsRegressor

from experts import OutcomeTable
from router_rl import Objective, export, fit
from router_rl.problems.routing.problem import RoutingProblem

OBJECTIVE = Objective(compute_weight=0.05)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_equals_scikit_learn(kinds: OutcomeTable, metric: str) -> None:
    router = fit("knn", RoutingProblem(kinds, OBJECTIVE), hyperparameters={"neighbours": 7, "metric": metric})
    train, test = kinds.part("train"), kinds.part("test")
    mean, deviation = train.features.mean(axis=0), train.features.std(axis=0)
    utility = train.quality - 0.05 * train.cost / 10
    model = KNeighborsRegressor(7, metric=metric, algorithm="brute")
    model.fit((train.features - mean) / deviation, utility)
    expected = model.predict((test.features - mean) / deviation)
    with torch.inference_mode():
        found = router(torch.tensor(test.features)).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_neighbour_is_the_training_row_itself(kinds: OutcomeTable) -> None:
    router = fit(
        "knn", RoutingProblem(kinds, Objective(compute_weight=0.0)), hyperparameters={"neighbours": 1}
    )
    train = kinds.part("train")
    with torch.inference_mode():
        assert np.array_equal(router(torch.tensor(train.features)).logits.numpy(), train.quality)


def test_more_neighbours_than_rows_are_all_of_them(kinds: OutcomeTable) -> None:
    router = fit("knn", RoutingProblem(kinds, OBJECTIVE), hyperparameters={"neighbours": 10000})
    assert router.spec()["scorer"]["neighbours"] == len(kinds.part("train"))


@pytest.mark.parametrize("format", ["safetensors", "pt2"])
def test_the_export_carries_the_training_queries(kinds: OutcomeTable, tmp_path: Path, format: str) -> None:
    router = fit("knn", RoutingProblem(kinds, OBJECTIVE))
    assert export(router, tmp_path / "out", format=format, rows=kinds).passed
    rows = len(kinds.part("train"))
    stored = 4 * rows * (4 + 4)
    assert sum(parameter.numel() for parameter in router.parameters()) * 4 == stored
    written = (tmp_path / "out" / f"router.{format}").stat().st_size
    assert stored <= written
    if format == "safetensors":
        assert written < stored + 1000
