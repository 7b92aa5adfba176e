"""Boosted trees: the torch form equals scikit-learn's predictions, and one fit serves all compute weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingRegressor

from experts import OutcomeTable
from router_rl import Objective, export, fit
from router_rl.methods.baselines import boosted_trees
from router_rl.methods.baselines.boosted_trees import BoostedTreesHyperparameters, fit_forest
from router_rl.methods.method import Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import TreeScorer

OBJECTIVE = Objective(compute_weight=0.05)
SMALL = {"trees": 7, "depth": 3, "min_samples_leaf": 3}


@pytest.fixture(scope="module")
def varying(kinds: OutcomeTable) -> OutcomeTable:
    """The table with costs that depend on the features."""
    assert kinds.features is not None
    cost = kinds.cost * (1.0 + 0.5 * np.abs(kinds.features[:, :1]))
    return replace(kinds, cost=cost.astype(np.float32))


def _predicted(table: OutcomeTable, target: np.ndarray, seed: int) -> np.ndarray:
    """scikit-learn's predictions of the test rows, [T, N]."""
    train, test = table.part("train"), table.part("test")
    columns: list[np.ndarray] = []
    for expert in range(target.shape[1]):
        mean = target[:, expert].mean()
        if np.ptp(target[:, expert]) < 1e-9:
            columns.append(np.full(len(test), mean))
            continue
        model = GradientBoostingRegressor(
            n_estimators=7,
            max_depth=3,
            learning_rate=0.1,
            min_samples_leaf=3,
            subsample=0.5,
            max_features="sqrt",
            init="zero",
            random_state=seed,
        ).fit(train.features, target[:, expert] - mean)
        columns.append(mean + model.predict(test.features))
    return np.stack(columns, axis=1)


def test_equals_scikit_learn(varying: OutcomeTable) -> None:
    problem = RoutingProblem(varying, OBJECTIVE)
    router = fit("boosted_trees", problem, hyperparameters=SMALL, seed=3)
    train, test = varying.part("train"), varying.part("test")
    compute = train.cost.astype(float) / problem.scale
    expected = _predicted(varying, train.quality.astype(float), 3) - 0.05 * _predicted(varying, compute, 3)
    with torch.inference_mode():
        found = router(torch.tensor(test.features)).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_rows_at_a_threshold_go_where_scikit_learn_sends_them() -> None:
    """Features on a grid: every threshold lies between two of few values, and many rows are on one side."""
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 4, (300, 3)) / np.float32(3.0)).astype(np.float32)
    y = np.sin(5.0 * x[:, :1].astype(float)) + 0.1 * rng.normal(size=(300, 1))
    small = BoostedTreesHyperparameters(trees=20, depth=4, min_samples_leaf=1)
    forest = fit_forest(x, y, small, 0)
    scorer = TreeScorer(3, 1, 20, 4)
    with torch.no_grad():
        scorer.feature.copy_(torch.from_numpy(forest.feature[0]))
        scorer.threshold.copy_(torch.from_numpy(forest.threshold[0]))
        scorer.leaf.copy_(torch.from_numpy(forest.leaf[0]))
        scorer.bias.copy_(torch.from_numpy(forest.bias))
    model = GradientBoostingRegressor(
        n_estimators=20,
        max_depth=4,
        min_samples_leaf=1,
        subsample=0.5,
        max_features="sqrt",
        init="zero",
        random_state=0,
    ).fit(x, y[:, 0] - y.mean())
    found = scorer(torch.from_numpy(x)).flatten().numpy()
    np.testing.assert_allclose(found, y.mean() + model.predict(x), atol=1e-5)


def test_one_fit_serves_all_compute_weights(varying: OutcomeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = boosted_trees.fit_forest

    def counted(*arguments: object) -> object:
        calls.append(1)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(boosted_trees, "fit_forest", counted)
    problem = RoutingProblem(varying, [Objective(compute_weight=weight) for weight in (0.0, 0.5)])
    hyperparameters = BoostedTreesHyperparameters(**SMALL)  # type: ignore[arg-type]
    free, charged = (
        boosted_trees.fit(problem.at(case), hyperparameters, Run()).scorer for case in problem.cases
    )
    assert len(calls) == 2  # quality and cost, once
    x = torch.tensor(varying.features)
    assert not torch.equal(free(x), charged(x))
    assert float((free(x) - charged(x)).mean()) > 0.0


def test_equal_outcomes_are_a_constant(kinds: OutcomeTable) -> None:
    same = replace(kinds, quality=np.full_like(kinds.quality, 0.5))
    router = fit("boosted_trees", RoutingProblem(same, OBJECTIVE), hyperparameters=SMALL)
    logits = router(torch.tensor(kinds.features)).logits
    assert torch.equal(logits, logits[:1].expand_as(logits))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "pt2", "onnx"])
def test_it_is_exported(varying: OutcomeTable, tmp_path: Path, format: str) -> None:
    router = fit("boosted_trees", RoutingProblem(varying, OBJECTIVE), hyperparameters=SMALL)
    assert export(router, tmp_path / "out", format=format, rows=varying).passed
