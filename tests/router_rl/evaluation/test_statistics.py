"""Intervals: exact cases, coverage, and pairing."""

from __future__ import annotations

import numpy as np
import pytest

from router_rl.evaluation.statistics import interval


def test_constants_have_no_width() -> None:
    found = interval(np.full((3, 10), 0.5))
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)
    assert interval(np.array([[1.0]])).low == 1.0


def test_one_seed_matches_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(1.0, 2.0, size=(1, 400))
    found = interval(values)
    error = values.std(ddof=1) / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)


def test_equal_seeds_count_once() -> None:
    values = np.random.default_rng(0).normal(size=(1, 50))
    assert interval(np.repeat(values, 4, axis=0)) == interval(values)


def test_seeds_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    query = rng.normal(0, 1, size=(1, 300))
    alike = query + rng.normal(0, 0.01, size=(5, 1))
    apart = query + rng.normal(0, 0.5, size=(5, 1))
    assert np.ptp([interval(apart).low, interval(apart).high]) > 1.5 * np.ptp(
        [interval(alike).low, interval(alike).high]
    )


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    """Crossed effects of queries and seeds, 100 data sets: 95% nominal, at least 85 with five seeds."""
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        values = (
            rng.normal(0, 1, size=(1, 60))
            + rng.normal(0, 0.1, size=(5, 1))
            + rng.normal(0, 0.5, size=(5, 60))
        )
        found = interval(values, seed=trial)
        covered += found.low <= 0.0 <= found.high
    assert covered >= 85


def test_pairing_narrows_a_difference() -> None:
    rng = np.random.default_rng(0)
    query = rng.normal(0, 1, size=(1, 300))
    one, two = query + rng.normal(0, 0.05, (3, 300)), query + rng.normal(0, 0.05, (3, 300)) - 0.03
    difference = interval(one - two)
    assert difference.low > 0
    assert np.ptp([interval(one).low, interval(one).high]) > 5 * np.ptp([difference.low, difference.high])
