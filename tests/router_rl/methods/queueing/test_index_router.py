"""The router of all index rules: constants of the queues, and predictions with the best penalties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl.methods.queueing import index_router as index_router_module
from router_rl.methods.queueing.index_router import index_router, scorer_of, with_weights
from router_rl.problems.queueing.problem import QueueingProblem

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def test_the_constants_are_those_of_the_queues(table: OutcomeTable) -> None:
    options: dict[str, Any] = {"loads": 0.5, "replicas": (1, 2, 3), "mean_up": 50.0, "mean_repair": 3.0}
    problem = QueueingProblem(table, budget=0.4, overspend_weight=1.0, **options)
    constants = scorer_of(index_router(problem)).constants
    mean = table.part("train").latency_s.mean(axis=0)
    assert constants.service == pytest.approx(mean)
    assert constants.mean_service == pytest.approx(mean.mean())
    assert constants.replicas == (1, 2, 3)
    assert constants.repair == pytest.approx(3.0 * mean.mean())
    pace = (np.array([1.0, 2.0, 3.0]) / mean).sum() * 50.0 / 53.0  # while they are up
    assert constants.gap == pytest.approx(1.0 / (0.5 * pace))
    assert constants.budget == 0.4


def test_terms_that_are_not_named_weigh_nothing(table: OutcomeTable) -> None:
    scorer = scorer_of(with_weights(index_router(QueueingProblem(table, loads=0.8)), {"wait": 2.0}))
    assert dict(zip(scorer.term_names, scorer.weights.tolist(), strict=True)) == {
        **dict.fromkeys(scorer.term_names, 0.0),
        "wait": 2.0,
    }


def test_each_prediction_has_its_best_penalty_on_validation_rows(
    make_table: Callable[..., OutcomeTable],
) -> None:
    """Quality follows one of 30 features and the rest is noise, so that penalties differ."""
    rng = np.random.default_rng(1)
    table = make_table(rows=160)
    features = rng.normal(size=(160, 30))
    quality = (0.5 + 0.3 * features[:, :1] + 0.02 * rng.normal(size=(160, 3))).clip(0.0, 1.0)
    cost = rng.uniform(1.0, 3.0, size=(160, 3))
    table = replace(table, features=features, quality=quality, cost=cost)
    problem = QueueingProblem(table, loads=0.8)
    estimate = scorer_of(index_router(problem)).estimate
    train, validation = table.part("train"), table.part("validation")
    mean, deviation = train.features.mean(axis=0), train.features.std(axis=0)
    longest = 10.0 * np.array(problem.units.service)

    def rows(part: OutcomeTable) -> tuple[np.ndarray, np.ndarray]:
        service = np.minimum(part.latency_s, longest)
        x = (part.features - mean) / deviation
        return x, np.hstack([part.quality, part.cost / problem.units.compute, service])

    (x, y), (away, truth) = rows(train), rows(validation)
    chosen: list[float] = []
    for target in range(3):
        columns = slice(3 * target, 3 * target + 3)
        found: dict[float, tuple[float, np.ndarray, np.ndarray]] = {}
        for penalty in PENALTIES:
            gram = x.T @ x / len(x) + penalty * np.eye(30)
            bias = y[:, columns].mean(axis=0)
            weight = np.linalg.solve(gram, x.T @ (y[:, columns] - bias) / len(x))
            error = float(np.square(away @ weight + bias - truth[:, columns]).mean())
            found[penalty] = (error, weight, bias)
        best = min(found, key=lambda penalty: found[penalty][0])
        chosen.append(best)
        weight, bias = estimate.weight.detach()[columns].numpy(), estimate.bias.detach()[columns].numpy()
        np.testing.assert_allclose(weight, found[best][1].T, atol=1e-4)
        np.testing.assert_allclose(bias, found[best][2], atol=1e-4)
    assert chosen[0] < chosen[1]
    assert torch.isfinite(estimate.weight).all()


def test_a_table_with_tokens_decides_how_long_its_queries_take(
    make_table: Callable[..., OutcomeTable],
) -> None:
    """A request at an idle engine: its prompt, then one step for each further token."""
    rng = np.random.default_rng(0)
    table = make_table(rows=160)
    tokens_in, tokens_out = rng.integers(10, 900, (160, 3)), rng.integers(1, 90, (160, 3))
    table = replace(table, tokens_in=tokens_in.astype(float), tokens_out=tokens_out.astype(float))
    problem = QueueingProblem(table, servers="continuous", loads=0.8, window=16, episodes=2)
    assert problem.lengths is not None
    test = table.part("test")
    found = index_router_module._service(problem, test)
    for expert, unit in enumerate(problem.units.servers):
        mean = problem.lengths.means()[expert, 0]
        for row in range(0, 40, 7):
            first = max(0.0, unit.first + unit.prompt * (test.tokens_in[row, expert] - mean))
            expected = first + unit.token * (test.tokens_out[row, expert] - 1.0)
            assert found[row, expert] == pytest.approx(expected)
