"""Queries to ask next: greedy by brute force, where the decision is open, never twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from newcomer_pools import REGIONS, ROWS, after, drawn
from scipy.integrate import quad
from scipy.stats import norm

from router_rl.problems.newcomer_posterior import Posterior, uncertainty
from router_rl.problems.probe_choice import chosen_probes, decision_weights, next_probes, value_of_information


def test_each_row_reduces_the_weighted_variance_most() -> None:
    pool, own = drawn(0)
    new = after(pool, own, np.arange(0, ROWS, 40))
    weights = np.array([1.0, 0.2, 0.0, 3.0])
    x = new.x[:60]

    def variance_with(rows: list[int]) -> float:
        precision = np.linalg.inv(new.known.covariance) + x[rows].T @ x[rows] / new.known.noise
        known = Posterior(new.known.mean, np.linalg.inv(precision), new.known.noise)
        return float(weights @ uncertainty(new.means, known) ** 2)

    rows: list[int] = []
    for _ in range(4):
        rows.append(min(set(range(60)) - set(rows), key=lambda row: variance_with([*rows, row])))
    found = chosen_probes(x, new.means, weights, new.known, 4, np.random.default_rng(0), 60)
    assert found.tolist() == rows


def test_asks_where_the_decision_is_open_and_never_twice() -> None:
    pool, own = drawn(3)
    answered = np.arange(0, ROWS, 10)
    new = after(pool, own, answered)
    expected = new.means @ new.known.mean
    rival = expected + np.array([5.0, 5.0, 0.0, 5.0])  # hopeless but in region 2
    rows = np.arange(100, 300)
    found = next_probes(new, rival, 0.0, rows, 40)
    assert len(set(found.tolist())) == 40
    assert set(found.tolist()) <= set(rows.tolist()) - set(answered.tolist())
    assert (pool.region[found] == 2).mean() > 0.6
    assert (pool.region[rows] == 2).mean() == 0.25
    left = set(range(100, 130)) - set(answered.tolist())
    assert set(next_probes(new, rival, 0.0, np.arange(100, 130), 90).tolist()) == left


def test_the_price_moves_the_decision() -> None:
    pool, own = drawn(4)
    new = after(pool, own, np.arange(0, ROWS, 10))
    rival = new.means @ new.known.mean
    assert value_of_information(new, rival, 0.0) > 100 * value_of_information(new, rival, 1.0)


def test_the_value_of_information_is_the_expected_gain() -> None:
    pool, own = drawn(5)
    new = after(pool, own, np.arange(0, ROWS, 20))
    rival = np.linspace(0.2, 0.8, REGIONS)
    deviation, mean = uncertainty(new.means, new.known), new.means @ new.known.mean - rival
    expected = 0.0
    for share, d, s in zip(new.share, mean, deviation, strict=True):
        positive, _ = quad(
            lambda v, d=d, s=s: max(v, 0.0) * norm.pdf(v, d, s), d - 8 * s, d + 8 * s, points=[0]
        )
        expected += share * (positive - max(d, 0.0))
    assert value_of_information(new, rival, 0.0) == pytest.approx(expected, rel=1e-5)
    # The weights are its derivative by the variance, up to the factor 2.
    step = 1e-6
    shrunk = replace(new, known=new.known._replace(covariance=new.known.covariance * (1 - step)))
    slope = (value_of_information(new, rival, 0.0) - value_of_information(shrunk, rival, 0.0)) / step
    weights = decision_weights(mean, new.means, new.share, new.known)
    assert slope == pytest.approx(float(weights @ deviation**2) / 2.0, rel=1e-3)
