"""Evaluations use held-out rows only, at compute weights that split the queries between experts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl import Objective, ScorerConfig
from router_rl.methods.agents.held_out_evaluation import (
    HeldOutEvaluation,
    held_out_evaluations,
    weights_by_spend,
)
from router_rl.problems.cross_fitting import held_out
from router_rl.problems.prompt_features import FeatureConfig, with_features
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard, PricedScorer

WEIGHTS = torch.tensor([0.1, 0.4], dtype=torch.float64)


def _table(rows: int = 60) -> OutcomeTable:
    rng = np.random.default_rng(0)
    words = np.array(["red", "green", "blue", "grey", "black"])
    return OutcomeTable(
        experts=("a", "b"),
        query_id=np.array([f"q{i}" for i in range(rows)], dtype=object),
        features=None,
        quality=(rng.random((rows, 2)) < 0.5).astype(float),
        cost=np.tile([0.2, 1.0], (rows, 1)),
        split=np.array((["train"] * 8 + ["validation", "test"]) * (rows // 10)),
        prompt=np.array([f"{i} " + " ".join(rng.choice(words, 4)) for i in range(rows)], dtype=object),
        group=rng.choice(["x", "y"], rows).astype(object),
    )


def _evaluations(table: OutcomeTable) -> list[HeldOutEvaluation]:
    made, _, out_of_fold = with_features(table, FeatureConfig(dimensions=3))
    shape = ScorerConfig(kind="linear")
    task = RoutingProblem(made, Objective(), Hard(), scorer=shape, out_of_fold=out_of_fold)
    assert task.train.features is not None
    scorer = PricedScorer(task.train.features.shape[1] + 1, 2, [(0.1, 1.0)])
    task.wrap(scorer)
    folds = held_out(task.train, 5, 0) if out_of_fold is None else out_of_fold.folds
    return held_out_evaluations(task, scorer, folds, WEIGHTS, seed=0)


@pytest.mark.parametrize("own", [False, True])
def test_an_evaluation_does_not_use_the_outcomes_of_its_rows(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flip every outcome of a fold: no prediction for it or its evaluation changes."""
    monkeypatch.setattr("router_rl.problems.prompt_features._PENALTIES", (3.0,))
    table = _table()
    if own:
        table = replace(table, features=np.random.default_rng(1).normal(size=(60, 4)), prompt=None)
    before = _evaluations(table)[1]
    quality = table.quality.copy()
    rows = np.flatnonzero(table.split == "train")[before.rows]
    quality[rows] = 1 - quality[rows]
    after = _evaluations(replace(table, quality=quality))[1]
    torch.testing.assert_close(after.predicted_quality, before.predicted_quality, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        after.data.quality_regressions.out_of_fold,
        before.data.quality_regressions.out_of_fold,
        atol=1e-5,
        rtol=1e-4,
    )
    torch.testing.assert_close(after.quality, 1 - before.quality)


def test_utility_by_hand() -> None:
    evaluation = _evaluations(_table())[0]
    alpha = torch.full((evaluation.predicted_quality.shape[-1],), 0.5, dtype=torch.float64)
    bias = torch.tensor([0.0, 0.1], dtype=torch.float64)
    earned = evaluation.utility(alpha, bias)
    for row in range(len(evaluation.rows)):
        total = 0.0
        for weight in WEIGHTS.tolist():
            worth = (
                evaluation.data.quality_regressions.mean
                + bias
                + 0.5 * evaluation.predicted_quality[row].sum(dim=-1)
            )
            choice = int((worth - weight * evaluation.predicted_cost[row]).argmax())
            total += float(evaluation.quality[row, choice] - weight * evaluation.compute[row, choice]) / 2
        assert earned[row] == pytest.approx(total)


def test_weights_split_the_queries_between_experts() -> None:
    """The expensive expert gains 0 to 1: a share 1 - w of the queries selects it at weight w."""
    better = torch.linspace(0.0, 1.0, 1001, dtype=torch.float64)
    worth = torch.stack([torch.zeros_like(better), better], dim=1)
    price = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(1001, 2)
    found = weights_by_spend(worth, price, price, 1e-3, 100.0)
    assert found.tolist() == pytest.approx([0.1 * k for k in range(1, 10)], rel=0.05)
    # Where a range decides nothing, any weight of it will do.
    assert ((weights_by_spend(worth, price, price, 2.0, 100.0) - 2.0).abs() < 1e-9).all()
