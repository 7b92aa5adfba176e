"""Measures of load, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from experts import InputError
from router_rl.problems.load import (
    check_placement,
    device_shares,
    drops,
    ideal_tiles,
    load_cv,
    load_report,
    max_over_mean,
    tiles,
)


def test_cv_and_max_over_mean() -> None:
    assert load_cv(np.array([0.25, 0.25, 0.25, 0.25])) == 0.0
    assert load_cv(np.array([1.0, 0.0])) == pytest.approx(1.0)
    shares = np.array([0.5, 0.25, 0.25])
    assert load_cv(shares) == pytest.approx(np.std(shares) / (1 / 3))
    assert max_over_mean(shares) == pytest.approx(1.5)
    assert max_over_mean(np.full(7, 1 / 7)) == pytest.approx(1.0)
    assert max_over_mean(np.array([0.0, 1.0, 0.0])) == pytest.approx(3.0)


def test_drops_start_anew_in_every_window() -> None:
    runs = np.eye(2, dtype=bool)[[0, 0, 0, 1, 0, 0, 0, 1]]
    assert drops(runs, 1.0, 4) == pytest.approx(2 / 8)  # 2 slots an expert: the third run is dropped, twice
    assert drops(runs, 1.25, 4) == 0.0  # ceil(2.5) = 3
    assert drops(runs, 1.0, 8) == pytest.approx(2 / 8)  # 4 slots, 6 runs
    assert drops(runs, 1.0, 1) == 0.0  # ceil(1 / 2) = 1
    assert drops(runs, 1.0, 100) == drops(runs, 1.0, 8)


def test_drops_count_runs_and_a_short_last_window() -> None:
    both = np.ones((4, 2), dtype=bool)
    assert drops(both, 1.0, 4) == 0.0  # 8 runs, 4 slots each
    # Windows of 3 and 1: in the first 2 slots and 3 runs of expert 0, in the second 1 and 1.
    assert drops(np.eye(2, dtype=bool)[[0, 0, 0, 0]], 1.0, 3) == pytest.approx(1 / 4)
    assert drops(np.zeros((3, 2), dtype=bool), 1.0, 3) == 0.0


def test_a_capacity_that_is_whole_is_not_rounded_up() -> None:
    runs = np.eye(10, dtype=bool)[np.arange(100) % 10]
    runs[0] = runs[1]  # 11 runs of expert 1
    assert drops(runs, 1.1, 100) == 0.0  # 1.1 * 100 / 10 = 11
    runs[2] = runs[1]
    assert drops(runs, 1.1, 100) == pytest.approx(0.01)


def test_the_busiest_drop_most_at_a_factor() -> None:
    everything = np.eye(4, dtype=bool)[np.zeros(64, dtype=int)]
    assert drops(everything, 1.25, 64) == pytest.approx(1 - 20 / 64)


def test_tiles() -> None:
    counts = np.array([1, 127, 128, 129, 0])
    assert tiles(counts) == 1 + 1 + 1 + 2
    assert ideal_tiles(counts) == 4  # 385 rows
    assert tiles(counts, tile=1) == ideal_tiles(counts, tile=1) == 385


def test_devices() -> None:
    devices = check_placement([0, 0, 1, 1], 4)
    assert device_shares(np.array([0.1, 0.2, 0.3, 0.4]), devices).tolist() == pytest.approx([0.3, 0.7])
    assert device_shares(np.array([0.4, 0.1, 0.1, 0.4]), devices).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ([0, 1], r"placement=\[0, 1\]: 2 devices for 3 experts; give one each"),
        ([0, 1, 3], "3 experts are on at most 3 devices"),
        ([0, 1, 10**20], "3 experts are on at most 3 devices; number devices from 0 without a gap"),
        ([0, -1, 1], r"placement=\[0, -1, 1\]: a device is negative; number devices from 0"),
        ([0, 2, 2], "device 1 has no expert; number devices from 0 without a gap"),
        ([], "0 devices for 3 experts"),
    ],
)
def test_bad_placements(placement: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_placement(placement, 3)


def test_the_report() -> None:
    share = np.array([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    found = load_report(share, 0.25, 4, [0, 0])
    assert found["cv"] == pytest.approx(0.75)  # shares 7/8 and 1/8
    assert found["max_over_mean"] == pytest.approx(1.75)
    assert found["drops"] == {"capacity_factor": 1.25, "window": 4, "fraction": 0.25}
    assert found["tiles"] == {"rows": 128, "used": 2, "ideal": 1, "ratio": 2.0}
    assert found["devices"]["shares"] == [1.0]
    assert (found["devices"]["cv"], found["devices"]["max_over_mean"]) == (0.0, 1.0)
    assert "devices" not in load_report(share, 0.25, 4)


def test_the_ratio_of_tiles_is_used_over_ideal() -> None:
    share = np.eye(2, dtype=np.float32)[np.repeat([0, 1], [129, 255])]
    found = load_report(share, 0.0, 384)
    assert found["tiles"] == {"rows": 128, "used": 4, "ideal": 3, "ratio": pytest.approx(4 / 3)}
