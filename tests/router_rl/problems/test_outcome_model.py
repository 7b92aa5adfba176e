"""The model of outcomes: ridge regression as scikit-learn has it, and no row in its own prediction."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV

from router_rl.problems.outcome_model import cross_fitted, fit_ridge, predicted


@pytest.mark.parametrize("size", [12, 60])
def test_is_ridge_with_the_penalty_of_least_error(size: int) -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=(size, 20)), np.ones(size)])  # more features than rows; one constant
    y = np.stack([x[:, 0] + rng.normal(size=size), np.full(size, 3.0)], axis=1)
    at = rng.normal(size=(5, 21))
    deviation = np.where(x.std(axis=0) > 1e-6, x.std(axis=0), np.inf)
    theirs = RidgeCV(alphas=(1.0, 10.0, 100.0, 1_000.0), alpha_per_target=True)
    theirs.fit((x - x.mean(axis=0)) / deviation, y)
    ours = predicted(x, np.zeros(size, dtype=int), y, 1, at)[:, 0]
    expected = theirs.predict((at - x.mean(axis=0)) / deviation).clip(y.min(axis=0), y.max(axis=0))
    np.testing.assert_allclose(ours, expected, atol=1e-10)


@pytest.mark.parametrize(("signal", "penalty"), [(1.0, 1.0), (0.4, 10.0), (0.15, 100.0), (0.0, 1_000.0)])
def test_the_weaker_the_signal_the_larger_the_penalty(signal: float, penalty: float) -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(60, 5)), 2.0 * rng.normal(size=60)
    y = signal * x.sum(axis=1) + noise
    theirs = RidgeCV(alphas=(1.0, 10.0, 100.0, 1_000.0)).fit(x, y)
    assert theirs.alpha_ == penalty
    np.testing.assert_allclose(fit_ridge(x, y[:, None]).weight[:, 0], theirs.coef_, atol=1e-10)


def test_experts_asked_seldom_or_never() -> None:
    features, action = np.zeros((4, 1)), np.array([0, 0, 0, 1])
    outcome = np.array([[1.0], [0.0], [0.5], [0.2]])
    found = predicted(features, action, outcome, 3, np.zeros((1, 1)))
    np.testing.assert_allclose(found[0, :, 0], [0.5, 0.2, 1.7 / 4])


def test_a_row_is_not_in_its_own_prediction() -> None:
    rng = np.random.default_rng(0)
    features, action, outcome = rng.normal(size=(53, 4)), rng.integers(0, 2, 53), rng.random((53, 1))
    before = cross_fitted(features, action, outcome, 2)
    for row in (0, 17, 52):
        other = outcome.copy()
        other[row] = 1.0 - other[row]
        np.testing.assert_array_equal(cross_fitted(features, action, other, 2)[row], before[row])
