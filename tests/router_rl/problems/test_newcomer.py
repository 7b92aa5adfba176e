"""A new expert's estimated outcomes: measured where it answered, better than the probes alone, cautious."""

from __future__ import annotations

import numpy as np
import pytest
from newcomer_pools import REGIONS, ROWS, after, drawn

from router_rl.problems.newcomer import CAUTION, Answers, in_range, newcomer
from router_rl.problems.newcomer_cost import STRENGTH, imputed_cost
from router_rl.problems.newcomer_posterior import uncertainty
from router_rl.problems.newcomer_prior import estimated_variances


def by_region(values: np.ndarray, region: np.ndarray) -> np.ndarray:
    return np.bincount(region, weights=values) / np.bincount(region)


def test_answers_are_kept_and_the_rest_is_in_range() -> None:
    pool, own = drawn(0)
    rows = np.arange(0, ROWS, 11)
    new = after(pool, own, rows)
    for quality in (new.expected(), new.cautious()):
        np.testing.assert_array_equal(quality[rows], own[rows])
        assert quality.min() >= 0.0
        assert quality.max() <= 1.0
    np.testing.assert_allclose(new.cost, pool.cost[:, 0] * 10.0)  # here the ratio is the same on every query
    np.testing.assert_array_equal(new.lowered()[rows], 0.0)


def test_the_caution_lowers_each_region_by_its_uncertainty() -> None:
    pool, own = drawn(1)
    new = after(pool, own, np.arange(0, ROWS, 9))
    target = new.means @ new.known.mean
    lower = target - CAUTION * uncertainty(new.means, new.known)
    others = np.setdiff1d(np.arange(ROWS), new.answers.rows)
    region = pool.region[others]
    for quality, wanted in ((new.expected(), target), (new.cautious(), lower)):
        # Only the rows that were measured differ from the target.
        np.testing.assert_allclose(by_region(quality[others], region), wanted.clip(0, 1), atol=0.06)
    assert (by_region(new.cautious()[others], region) < by_region(new.expected()[others], region)).all()


def test_knows_more_than_the_probes_alone() -> None:
    ours, alone = [], []
    for seed in range(5):
        pool, own = drawn(seed)
        truth = by_region(own, pool.region)
        rows = np.random.default_rng(seed).permutation(ROWS)[:30]
        new = after(pool, own, rows)
        count = np.bincount(pool.region[rows], minlength=REGIONS)
        total = np.bincount(pool.region[rows], weights=own[rows], minlength=REGIONS)
        shrunk = (total + 5.0 * own[rows].mean()) / (count + 5.0)
        ours.append(np.abs(new.means @ new.known.mean - truth).mean())
        alone.append(np.abs(shrunk - truth).mean())
    assert np.mean(ours) < 0.9 * np.mean(alone)


def test_without_answers_it_is_an_average_expert() -> None:
    pool, _ = drawn(2)
    variances = estimated_variances(pool.quality, pool.region, pool.regions)
    new = newcomer(pool, Answers.none(), variances)
    np.testing.assert_allclose(new.expected(), pool.quality.mean(axis=1), atol=1e-9)
    np.testing.assert_allclose(new.cost, pool.cost.mean(axis=1))


@pytest.mark.parametrize("mean", [-0.2, 0.0, 0.31, 1.0, 1.7])
def test_values_in_range_have_the_mean(mean: float) -> None:
    values = np.array([-2.0, 0.1, 0.2, 3.0])
    found = in_range(values, mean)
    assert found.mean() == pytest.approx(min(max(mean, 0.0), 1.0), abs=1e-9)
    assert (np.diff(found) >= 0.0).all()


def test_cost_of_a_region_is_shrunk_to_all_probes() -> None:
    old = np.array([[1.0], [1.0], [1.0], [1.0]])
    found = imputed_cost(old, np.array([0, 0, 1, 2]), 3, np.array([0, 1, 2]), np.array([2.0, 2.0, 5.0]))
    expected = [(4 + 3 * STRENGTH) / (2 + STRENGTH)] * 2 + [(5 + 3 * STRENGTH) / (1 + STRENGTH), 3.0]
    np.testing.assert_allclose(found, expected)


def test_free_experts_have_a_base_too() -> None:
    found = imputed_cost(np.zeros((3, 2)), np.zeros(3, dtype=int), 1, np.array([1]), np.array([4.0]))
    np.testing.assert_allclose(found, 4.0)
