"""What a new expert adds: by hand, and an interval that knows what is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from newcomer_pools import ROWS, after, drawn

from router_rl.problems.newcomer import Newcomer
from router_rl.problems.routing.router_measurement import RouterMeasurement
from router_rl.studies.newcomer_gain import expected_gain


def measured(quality: np.ndarray, compute: np.ndarray, choice: np.ndarray, experts: int) -> RouterMeasurement:
    return RouterMeasurement(
        parts={"quality": quality, "compute": compute},
        utility=quality - 0.1 * compute,
        share=np.eye(experts, dtype=np.float32)[choice],
        window=256,
        entropy=0.0,
        fallbacks=0,
    )


@pytest.fixture
def new() -> Newcomer:
    pool, own = drawn(0)
    return after(pool, own, np.arange(0, ROWS, 10))


def test_the_caution_is_not_part_of_the_expectation(new: Newcomer) -> None:
    rows = np.arange(1, ROWS, 2)  # none was answered
    used = new.region[rows] == 1
    before = measured(np.full(len(rows), 0.5), np.ones(len(rows)), np.zeros(len(rows), dtype=int), 7)
    quality = np.where(used, new.cautious()[rows], 0.5)
    after_ = measured(quality, np.where(used, 3.0, 1.0), np.where(used, 6, 0), 7)
    gain = expected_gain(before, after_, (2.0, 4.0), new, rows)
    expected = np.where(used, new.expected()[rows] - 0.5 - 0.2, 0.0)
    assert gain.utility.mean == pytest.approx(expected.mean(), abs=1e-6)
    assert gain.share == pytest.approx(used.mean())
    assert gain.quality == pytest.approx((0.5, np.where(used, new.expected()[rows], 0.5).mean()), abs=1e-6)
    assert gain.cost == pytest.approx((2.0, 4.0 * np.where(used, 3.0, 1.0).mean()), abs=1e-6)
    # The uncertainty about the expert is common to all rows: more rows do not remove it.
    spread = used @ new.x[rows] / len(rows)
    common = np.sqrt(spread @ new.known.covariance @ spread)
    half = (gain.utility.high - gain.utility.low) / 2.0
    assert half == pytest.approx(1.96 * np.hypot(common, expected.std() / np.sqrt(len(rows))), rel=1e-5)


def test_an_unused_expert_adds_nothing(new: Newcomer) -> None:
    rows = np.arange(ROWS)
    same = measured(np.full(ROWS, 0.5), np.ones(ROWS), np.zeros(ROWS, dtype=int), 7)
    gain = expected_gain(same, same, (1.0, 1.0), new, rows)
    assert (gain.share, gain.utility.mean, gain.utility.low, gain.utility.high) == (0.0, 0.0, 0.0, 0.0)


def test_measured_answers_are_certain(new: Newcomer) -> None:
    rows = new.answers.rows
    before = measured(np.full(len(rows), 0.5), np.ones(len(rows)), np.zeros(len(rows), dtype=int), 7)
    own = new.cautious()[rows]
    later = replace(before, parts={"quality": own, "compute": np.ones(len(rows))}, utility=own - 0.1)
    later = replace(later, share=np.eye(7, dtype=np.float32)[np.full(len(rows), 6)])
    gain = expected_gain(before, later, (1.0, 1.0), new, rows)
    half = (gain.utility.high - gain.utility.low) / 2.0
    assert half == pytest.approx(1.96 * (own - 0.5).std() / np.sqrt(len(rows)), rel=1e-5)
