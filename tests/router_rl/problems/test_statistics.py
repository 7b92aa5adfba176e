"""Intervals: exact cases, coverage, and pairing."""

from __future__ import annotations

import numpy as np
import pytest

from router_rl.problems import statistics
from router_rl.problems.statistics import interval, iqm, paired_difference


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
    """Crossed effects of queries and seeds, 100 data sets: 95% nominal, at least 90 with five seeds."""
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
    assert covered >= 90


@pytest.mark.parametrize("seeds", [3, 5])
def test_few_seeds_that_vary_more_than_queries_are_covered(
    seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """95% nominal: the interval covers 90 of 100 truths or more, the bootstrap alone fewer."""
    rng = np.random.default_rng(2)
    shape = (100, seeds, 30)
    values = rng.normal(0, 1, (100, seeds, 1)) + rng.normal(0, 0.1, (100, 1, 30)) + rng.normal(0, 0.1, shape)

    def covered() -> int:
        found = [interval(each, seed=trial) for trial, each in enumerate(values)]
        return sum(each.low <= 0.0 <= each.high for each in found)

    assert covered() >= 90
    monkeypatch.setattr(statistics, "_few_seeds", lambda values: 1.0)
    assert covered() < 90


def test_pairing_narrows_a_difference() -> None:
    rng = np.random.default_rng(0)
    query = rng.normal(0, 1, size=(1, 300))
    one, two = query + rng.normal(0, 0.05, (3, 300)), query + rng.normal(0, 0.05, (3, 300)) - 0.03
    difference = interval(one - two)
    assert difference.low > 0
    assert np.ptp([interval(one).low, interval(one).high]) > 5 * np.ptp([difference.low, difference.high])


def test_the_iqm_leaves_out_the_outer_quarters_of_the_seeds() -> None:
    values = np.repeat([[0.1], [0.7], [0.8], [0.75], [0.85], [0.9], [0.72], [1.0]], 10, axis=1)
    assert iqm(values).mean == pytest.approx(np.mean([0.75, 0.8, 0.72, 0.85]))
    failed, spared = interval(values), iqm(values)
    assert spared.high - spared.low < failed.high - failed.low


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_with_fewer_than_four_seeds_the_iqm_is_the_mean(seeds: int) -> None:
    values = np.random.default_rng(0).normal(size=(seeds, 30))
    assert iqm(values) == interval(values)


def test_the_iqm_of_equal_seeds_is_their_mean() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=(1, 50)), 6, axis=0)
    assert iqm(values) == interval(values)


def _by_hand(one: np.ndarray, two: np.ndarray, resamples: int, *, paired: bool) -> np.ndarray:
    """Bootstrap ends with plain loops and their own draws: the same queries and seeds for both, or not."""
    rng = np.random.default_rng(99)
    seeds, queries = one.shape
    found = []
    for _ in range(resamples):
        run, query = rng.integers(0, seeds, seeds), rng.integers(0, queries, queries)
        other = (run, query) if paired else (rng.integers(0, seeds, seeds), rng.integers(0, queries, queries))
        found.append(one[np.ix_(run, query)].mean() - two[np.ix_(*other)].mean())
    return np.quantile(found, [0.025, 0.975])


def test_a_difference_is_paired_over_queries_and_seeds() -> None:
    rng = np.random.default_rng(3)
    shared = rng.normal(0, 1, (1, 200)) + rng.normal(0, 0.3, (5, 1))
    one, two = shared + rng.normal(0, 0.2, (5, 200)) + 0.02, shared + rng.normal(0, 0.2, (5, 200))
    found = paired_difference(one, two)
    width = found.high - found.low
    assert [found.low, found.high] == pytest.approx(_by_hand(one, two, 2000, paired=True), abs=0.1 * width)
    assert np.ptp(_by_hand(one, two, 500, paired=False)) > 5 * width
    for broken in (two[:, rng.permutation(200)], two[[1, 2, 3, 4, 0]]):  # other queries; other seeds
        other = paired_difference(one, broken)
        assert other.high - other.low > 1.2 * width


@pytest.mark.slow
def test_a_paired_difference_covers_the_truth() -> None:
    """300 data sets like the tables': two routers that differ on a tenth of the queries, five seeds.

    Where seeds vary more than queries do, five are too few to cover as often: see `interval` above.
    """
    rng = np.random.default_rng(11)
    covered = 0
    for trial in range(300):
        gate = (rng.random((1, 120)) < rng.random((1, 120))).astype(float)
        gain = rng.choice([-1.0, 0.0, 1.0], p=[0.04, 0.9, 0.06], size=(1, 120))  # on every seed; mean 0.02
        luck = rng.choice([-1.0, 0.0, 1.0], p=[0.02, 0.96, 0.02], size=(5, 120))  # of one seed on one query
        agent = gate + gain + luck + rng.normal(0, 0.005, (5, 1))
        found = paired_difference(agent, np.repeat(gate, 5, axis=0), seed=trial)
        covered += found.low <= 0.02 <= found.high
    assert 0.92 * 300 <= covered <= 0.98 * 300, covered


def test_the_best_of_many_equal_methods_is_not_significantly_better():
    rng = np.random.default_rng(0)
    alone, together = 0, 0
    for _ in range(60):
        utility = rng.random((13, 1, 100))
        best = utility[1:].mean(axis=(1, 2)).argmax() + 1
        difference = paired_difference(utility[0], utility[best])
        alone += difference.high < 0.0
        together += difference.simultaneous(12).high < 0.0
    assert alone >= 9  # the error of an interval that ignores the choice, nominally 3 of 60
    assert together <= 3
