"""Regressions of worth and demand: by hand, and honest on the rows they were made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl import Objective, ScorerConfig
from router_rl.methods.agents.regressions import (
    Regressions,
    fit_cost_regression,
    fit_quality_regressions,
    stacking_weights,
)
from router_rl.problems.cross_fitting import fold_numbers, held_out
from router_rl.problems.out_of_fold import OutOfFold
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard, PricedScorer


def _table() -> OutcomeTable:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    return OutcomeTable(
        experts=("a", "b"),
        query_id=np.array([f"q{i}" for i in range(80)], dtype=object),
        features=x,
        quality=np.stack([x[:, 0] > 0, rng.random(80) < 0.5], axis=1),
        cost=np.stack([np.ones(80), 2.0 + 0.5 * np.tanh(x[:, 1])], axis=1),
        split=np.array(["train", "validation", "train", "test"] * 20),
    )


def _task(table: OutcomeTable) -> tuple[RoutingProblem, PricedScorer]:
    train = np.flatnonzero(table.split == "train")
    assert table.features is not None
    fold = fold_numbers(table.take(train), 4, seed=0)
    without = np.repeat(table.features[None, train, :2], 4, axis=0)
    out_of_fold = OutOfFold(columns=((0, 1),), fold=fold, without=without)
    task = RoutingProblem(
        table, Objective(), Hard(), scorer=ScorerConfig(kind="linear"), out_of_fold=out_of_fold
    )
    scorer = PricedScorer(4, 2, [[0.1, 1.0]])
    task.wrap(scorer)
    return task, scorer


def test_predictions_do_not_depend_on_the_rows_own_outcome() -> None:
    table = _table()
    task, scorer = _task(table)
    folds = held_out(task.train, 4, seed=0)
    before = fit_quality_regressions(task, scorer, folds)
    flipped = table.quality.copy()
    flipped[0] = 1 - flipped[0]
    other, _ = _task(replace(table, quality=flipped))
    after = fit_quality_regressions(other, scorer, folds)
    held = next(held for _, held in folds if 0 in held)
    predictions = [
        found.out_of_fold[0, :, found.n_out_of_fold :] + found.mean[:, None] for found in (before, after)
    ]
    torch.testing.assert_close(*predictions)
    apart = [row for row in range(40) if row not in held]
    assert not torch.allclose(before.out_of_fold[apart], after.out_of_fold[apart])


def test_the_weights_tell_what_the_regressions_tell() -> None:
    task, scorer = _task(_table())
    found = fit_quality_regressions(task, scorer, held_out(task.train, 4, seed=0))
    z = ((task.outcomes().features - scorer.shift) * scorer.scale).double()
    predicted = z @ found.weight[0].T + found.bias[0]
    torch.testing.assert_close(predicted, found.out_of_fold[..., 0], atol=1e-6, rtol=1e-5)  # used as it is
    assert found.n_out_of_fold == 1
    torch.testing.assert_close(found.out_of_fold.sum(dim=1), torch.zeros(40, 5).double(), atol=1e-6, rtol=0)


def test_ridges_do_not_use_out_of_fold_features() -> None:
    """Such a feature of a fitted row depends on the held-out rows and would leak their outcomes."""
    task, scorer = _task(_table())  # the first two features are out-of-fold predictions
    found = fit_quality_regressions(task, scorer, held_out(task.train, 4, seed=0))
    assert not found.weight[1:, :, :2].any()
    assert found.weight[1:, :, 2].all()


def test_stacking_by_hand() -> None:
    """Differences are 2 r0 - r1; no weight may be negative, and r0 and r1 are orthogonal."""
    first, second = torch.tensor([[1.0, -1.0], [1.0, -1.0]]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    none = torch.zeros(0)
    found = Regressions(torch.stack([first, second], dim=-1).double(), none, none, torch.zeros(2).double(), 2)
    quality = (2 * first - second).double() + 7.0
    assert stacking_weights(found, quality).tolist() == pytest.approx([2.0, 0.0])


def test_demand() -> None:
    task, scorer = _task(_table())
    folds = held_out(task.train, 4, seed=0)
    found = fit_cost_regression(task, scorer, folds)
    assert found.weight[1, 1] > 0.05
    assert found.weight[0].abs().max() < 1e-9
    assert found.bias.tolist() == pytest.approx([1.0, 1.0])
    table = _table()
    same, _ = _task(replace(table, cost=np.ones((80, 2))))
    still = fit_cost_regression(same, scorer, folds)
    assert not still.weight.any()
    assert (still.out_of_fold == 1.0).all()
