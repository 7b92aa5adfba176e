"""Estimates of missing outcomes: equal to a slow loop, better than means, and never a zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experts import InputError, OutcomeTable
from router_rl.problems.completed_table import completed
from router_rl.problems.feature_config import FeatureConfig
from router_rl.problems.prompt_features import with_features
from router_rl.problems.shrunken_means import shrunken_means

PENALTIES = (1.0, 10.0, 100.0, 1000.0)


def made(rows: int = 300, share: float = 0.5, seed: int = 0) -> tuple[OutcomeTable, OutcomeTable]:
    """A table and itself with missing outcomes: qualities are linear in x, with a common difficulty."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3)).astype(np.float32)
    hard = random.normal(size=(rows, 1))
    latent = x @ random.normal(size=(3, 4)) + 2.0 * hard + 0.3 * random.normal(size=(rows, 4))
    quality = (0.6 + 0.05 * latent).clip(0, 1).astype(np.float32)
    cost = (np.exp(0.2 * hard) * [1, 2, 3, 4]).astype(np.float32)
    table = OutcomeTable(
        experts=tuple("abcd"),
        query_id=range(rows),
        features=x,
        quality=quality,
        cost=cost,
        split=["train"] * rows,
    )
    missing = random.random((rows, 4)) < share
    missing[np.arange(rows), random.integers(0, 4, rows)] = False
    return table, replace(
        table, quality=np.where(missing, np.nan, quality), cost=np.where(missing, np.nan, cost)
    )


def slow(table: OutcomeTable, values: np.ndarray) -> np.ndarray:
    """The formula of the module, one regression for each row that is left out, and one row at a time."""
    x = table.features.astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    rows, experts = values.shape
    predicted, residual, deviation = np.zeros((rows, experts)), {}, []
    for e in range(experts):
        known = [t for t in range(rows) if not np.isnan(values[t, e])]
        errors = {
            p: {
                t: values[t, e] - _ridge(x, values[:, e], [s for s in known if s != t], p, x[t])
                for t in known
            }
            for p in PENALTIES
        }
        best = min(PENALTIES, key=lambda p: sum(error**2 for error in errors[p].values()))
        deviation.append(np.sqrt(np.mean([error**2 for error in errors[best].values()])))
        residual |= {(t, e): error / deviation[e] for t, error in errors[best].items()}
        predicted[:, e] = [_ridge(x, values[:, e], known, best, x[t]) for t in range(rows)]
    of = [[residual[t, e] for e in range(experts) if (t, e) in residual] for t in range(rows)]
    products = [a * b for own in of for i, a in enumerate(own) for j, b in enumerate(own) if i != j]
    c = min(max(np.mean(products), 0.0), 1.0)
    filled = values.astype(np.float64).copy()
    for t in range(rows):
        for e in range(experts):
            if np.isnan(values[t, e]):
                guess = predicted[t, e] + deviation[e] * c * sum(of[t]) / (1 + c * (len(of[t]) - 1))
                filled[t, e] = np.clip(guess, np.nanmin(values[:, e]), np.nanmax(values[:, e]))
    return filled


def _ridge(x: np.ndarray, y: np.ndarray, rows: list[int], penalty: float, at: np.ndarray) -> float:
    centred = x[rows] - x[rows].mean(axis=0)
    level = y[rows].mean(dtype=np.float64)
    weight = np.linalg.solve(
        centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (y[rows] - level)
    )
    return float(level + (at - x[rows].mean(axis=0)) @ weight)


def test_equals_a_loop_that_leaves_each_row_out() -> None:
    _, table = made(rows=60)
    filled = completed(table)
    np.testing.assert_allclose(filled.quality, slow(table, table.quality), rtol=1e-4)
    np.testing.assert_allclose(filled.cost, slow(table, table.cost), rtol=1e-4)


def test_known_outcomes_are_kept_and_a_complete_table_is_itself() -> None:
    whole, table = made()
    filled = completed(table)
    known = table.answered
    assert np.array_equal(filled.quality[known], table.quality[known])
    assert np.array_equal(filled.cost[known], table.cost[known])
    assert filled.missing == 0
    assert completed(whole) is whole


def test_the_features_and_the_other_experts_both_help() -> None:
    whole, table = made()
    missing = ~table.answered
    error = np.sqrt(np.mean((completed(table).quality - whole.quality)[missing] ** 2))
    means = np.broadcast_to(np.nanmean(table.quality, axis=0), missing.shape)
    blind = replace(table, features=np.ones((300, 1), dtype=np.float32))  # the other experts alone
    others = np.sqrt(np.mean((completed(blind).quality - whole.quality)[missing] ** 2))
    alone = np.sqrt(np.mean((means - whole.quality)[missing] ** 2))
    assert error < 0.6 * others < 0.6 * alone
    zero = np.sqrt(np.mean(whole.quality[missing] ** 2))
    assert error < 0.1 * zero  # a missing outcome read as 0


def test_few_outcomes_and_constant_ones() -> None:
    _, table = made(rows=40)
    quality, cost = np.array(table.quality), np.array(table.cost)
    quality[3:, 0] = cost[3:, 0] = np.nan  # three known rows: their mean
    quality[:3, 0] = 0.25
    cost[:3, 0] = 1.0
    known = ~np.isnan(quality[:, 1])
    quality[known, 1] = 1.0
    quality[np.isnan(quality).all(axis=1), 2] = 0.5
    cost[:, 2] = np.where(np.isnan(quality[:, 2]), np.nan, 3.0)
    filled = completed(replace(table, quality=quality, cost=cost))
    assert (filled.quality[:, 0] == 0.25).all()
    assert (filled.quality[:, 1] == 1.0).all()
    assert (filled.cost[:, 2] == 3.0).all()


def test_few_outcomes_tell_how_hard_a_query_is_by_hand() -> None:
    """Too few for a regression: an outcome's residual is what it exceeds the mean of the expert's others."""
    one, two = np.array([0.0, 1.0, 0.0, 0.7]), np.array([0.2, 0.8, 0.6, np.nan])
    table = OutcomeTable(
        experts=("a", "b"),
        query_id=range(4),
        features=np.ones((4, 1)),
        quality=np.stack([one, two], axis=1),
        cost=np.stack([np.ones(4), [1.0, 1.0, 1.0, np.nan]], axis=1),
        split=["train"] * 4,
    )
    first = np.array([one[t] - np.delete(one, t).mean() for t in range(4)])
    second = np.array([two[t] - np.delete(two[:3], t).mean() for t in range(3)])
    deviations = [np.sqrt(np.mean(each**2)) for each in (first, second)]
    correlation = np.mean(first[:3] * second) / np.prod(deviations)
    assert 0.5 < correlation < 1.0
    expected = two[:3].mean() + deviations[1] * correlation * first[3] / deviations[0]
    assert 0.5 < expected < 0.75
    assert completed(table).quality[3, 1] == pytest.approx(expected)


@pytest.mark.parametrize(("known", "regressed"), [(9, False), (10, True)])
def test_ten_outcomes_are_enough_for_a_regression(known: int, regressed: bool) -> None:
    """The other expert is always the same, so it tells nothing."""
    x = np.linspace(-1.0, 1.0, known + 2)[np.random.default_rng(0).permutation(known + 2)]
    values = np.stack([np.full(known + 2, 0.5), 0.5 + 0.4 * x], axis=1)
    values[known:, 1] = np.nan
    table = OutcomeTable(
        experts=("a", "b"),
        query_id=range(known + 2),
        features=x[:, None],
        quality=values,
        cost=np.where(np.isnan(values), np.nan, 1.0),
        split=["train"] * (known + 2),
    )
    found = completed(table).quality[known:, 1]
    mean = values[:known, 1].mean()
    assert (found == pytest.approx([mean, mean])) is not regressed
    if regressed:
        assert np.sign(found - mean).tolist() == np.sign(x[known:] - x[:known].mean()).tolist()


def test_an_expert_without_training_outcomes_is_named() -> None:
    _, table = made()
    part = table.take(np.flatnonzero(np.isnan(table.quality[:, 2])))
    with pytest.raises(InputError, match="table='c': answered none of the"):
        completed(part)


@pytest.mark.parametrize("strength", [0.0, 5.0])
def test_means_by_group_are_of_known_outcomes(strength: float) -> None:
    _, table = made()
    group = np.arange(300) % 7
    values = table.quality.astype(np.float64)
    values[group == 6, 2] = np.nan  # a group that an expert never answered has its overall mean
    found = shrunken_means(torch.from_numpy(values), torch.from_numpy(group), 7, strength).numpy()
    for e in range(4):
        known = values[:, e][~np.isnan(values[:, e])]
        assert found[7, e] == pytest.approx(known.mean())
        for g in range(7):
            own = [q for q in values[group == g, e] if q == q]
            expected = (sum(own) + strength * known.mean()) / (len(own) + strength) if own else known.mean()
            assert found[g, e] == pytest.approx(expected)


def test_prompt_features_are_fitted_to_known_outcomes() -> None:
    """An expert that is right wherever it answered is predicted to be right everywhere."""
    random = np.random.default_rng(0)
    words = ["red rose", "blue sea", "grey ash", "green leaf"]
    missing = random.random((120, 2)) < 0.5
    missing[missing.all(axis=1), 0] = False
    missing[90:] = False
    quality = np.stack([np.ones(120), random.random(120)], axis=1)
    table = OutcomeTable(
        experts=("a", "b"),
        query_id=range(120),
        prompt=[f"{words[row % 4]} {row}" for row in range(120)],
        group=[words[row % 4] for row in range(120)],
        features=None,
        quality=np.where(missing, np.nan, quality),
        cost=np.where(missing, np.nan, 1.0),
        split=np.repeat(["train", "validation", "test"], [90, 15, 15]),
    )
    config = FeatureConfig(min_df=1, dimensions=2, group=True, length=False)
    found = with_features(table, config)
    assert found.table.features is not None
    assert found.out_of_fold is not None
    assert np.isfinite(found.table.features).all()
    assert np.isfinite(found.out_of_fold.without).all()
    assert [len(columns) for columns in found.out_of_fold.columns] == [2, 2]  # of the words, of the groups
    for first, second in found.out_of_fold.columns:
        np.testing.assert_allclose(found.table.features[:, first], 1.0, atol=1e-6)
        assert found.table.features[:, second].std() > 0
