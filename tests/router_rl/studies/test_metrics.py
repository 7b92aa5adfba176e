"""Hull, AIQ, APGR and collapse, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from router_rl.studies.metrics import aiq, apgr, collapsed, upper_hull


def test_hull_drops_what_is_below_a_line_and_what_is_dearer_and_no_better() -> None:
    cost = np.array([2.0, 0.0, 1.0, 1.0, 3.0])
    quality = np.array([0.8, 0.2, 0.3, 0.1, 0.8])
    assert upper_hull(cost, quality).tolist() == [[0.0, 0.2], [2.0, 0.8]]


def test_aiq_by_hand() -> None:
    # From cost 0 to 2 the hull rises .2 -> .8 (mean .5), from 2 to 4 it stays .8: (1.0 + 1.6) / 4
    assert aiq(np.array([0.0, 2.0]), np.array([0.2, 0.8]), 0.0, 4.0) == pytest.approx(0.65)
    assert aiq(np.array([1.0]), np.array([0.5]), 1.0, 1.0) is None


def test_aiq_of_the_whole_range_by_one_point_is_its_quality() -> None:
    assert aiq(np.array([1.0]), np.array([0.7]), 1.0, 3.0) == pytest.approx(0.7)


def test_apgr_by_hand() -> None:
    weak, strong = np.array([0.0, 1.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0])
    # The one gain comes first: recovered 0, 1, 1, 1, 1 at shares 0, 1/4, ...: area 7/8
    assert apgr(weak, strong, np.array([4.0, 3.0, 2.0, 1.0])) == pytest.approx(7 / 8)
    assert apgr(weak, strong, np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(1 / 8)
    assert apgr(strong, weak, np.zeros(4)) is None


def test_a_random_ranking_has_apgr_one_half() -> None:
    rng = np.random.default_rng(0)
    weak, strong = rng.random(2000), rng.random(2000) + 0.5
    found = [apgr(weak, strong, rng.random(2000)) for _ in range(50)]
    assert np.mean([value for value in found if value is not None]) == pytest.approx(0.5, abs=0.01)


def test_an_oracle_ranking_can_exceed_one() -> None:
    weak, strong = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 1.0])
    found = apgr(weak, strong, strong - weak)
    assert found is not None
    assert found > 1


def test_collapse_needs_an_oracle_that_does_not() -> None:
    one, many = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    assert collapsed(one, many)
    assert not collapsed(one, one)
    assert not collapsed(many, many)
