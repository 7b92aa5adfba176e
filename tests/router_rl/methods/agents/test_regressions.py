"""Regressions of worth and demand: by hand, and honest on the rows they were made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl import Objective, ScorerConfig
from router_rl.methods.agents.regressions import Regressions, demanded, regressed, stacked
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
    readouts = OutOfFold(columns=((0, 1),), fold=fold, without=without)
    task = RoutingProblem(
        table, Objective(), Hard(), scorer=ScorerConfig(kind="linear"), out_of_fold=readouts
    )
    scorer = PricedScorer(4, 2, [[0.1, 1.0]])
    task.wrap(scorer)
    return task, scorer


def test_a_row_has_no_say_in_what_is_told_of_it() -> None:
    table = _table()
    task, scorer = _task(table)
    folds = held_out(task.train, 4, seed=0)
    before = regressed(task, scorer, folds)
    flipped = table.quality.copy()
    flipped[0] = 1 - flipped[0]
    other, _ = _task(replace(table, quality=flipped))
    after = regressed(other, scorer, folds)
    held = next(held for _, held in folds if 0 in held)
    said = [found.unseen[0, :, found.readouts :] + found.mean[:, None] for found in (before, after)]
    torch.testing.assert_close(*said)
    apart = [row for row in range(40) if row not in held]
    assert not torch.allclose(before.unseen[apart], after.unseen[apart])


def test_the_weights_tell_what_the_regressions_tell() -> None:
    task, scorer = _task(_table())
    found = regressed(task, scorer, held_out(task.train, 4, seed=0))
    z = ((task.outcomes().features - scorer.shift) * scorer.scale).double()
    readout = z @ found.weight[0].T + found.bias[0]
    torch.testing.assert_close(readout, found.unseen[..., 0], atol=1e-6, rtol=1e-5)  # a readout needs no fit
    assert found.readouts == 1
    torch.testing.assert_close(found.unseen.sum(dim=1), torch.zeros(40, 5).double(), atol=1e-6, rtol=0)


def test_ridges_do_not_see_the_readouts() -> None:
    """A readout of a row seen was fitted to the rows now held out and would tell their outcomes."""
    task, scorer = _task(_table())  # the readouts are the first two features
    found = regressed(task, scorer, held_out(task.train, 4, seed=0))
    assert not found.weight[1:, :, :2].any()
    assert found.weight[1:, :, 2].all()


def test_stacking_by_hand() -> None:
    """Differences are 2 r0 - r1; no weight may be negative, and r0 and r1 are orthogonal."""
    first, second = torch.tensor([[1.0, -1.0], [1.0, -1.0]]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    none = torch.zeros(0)
    found = Regressions(torch.stack([first, second], dim=-1).double(), none, none, torch.zeros(2).double(), 2)
    quality = (2 * first - second).double() + 7.0
    assert stacked(found, quality).tolist() == pytest.approx([2.0, 0.0])


def test_demand() -> None:
    task, scorer = _task(_table())
    folds = held_out(task.train, 4, seed=0)
    found = demanded(task, scorer, folds)
    assert found.weight[1, 1] > 0.05
    assert found.weight[0].abs().max() < 1e-9
    assert found.bias.tolist() == pytest.approx([1.0, 1.0])
    table = _table()
    same, _ = _task(replace(table, cost=np.ones((80, 2))))
    still = demanded(same, scorer, folds)
    assert not still.weight.any()
    assert (still.unseen == 1.0).all()
