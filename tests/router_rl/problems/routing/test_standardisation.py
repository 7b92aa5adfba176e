"""Shift, scale and means: those of NumPy, however many rows are read at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from router_rl.problems.routing import standardisation as module
from router_rl.problems.routing.standardisation import mean_over, standardisation


def _rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(2.0, 3.0, size=(count, 3)).astype(np.float32)


@pytest.mark.parametrize("chunk", [3, 5, 100])
def test_shift_and_scale_are_those_of_all_rows(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    rows = _rows(10)
    rows[:, 1] = 7.0
    shift, scale = standardisation(rows, [0.5, 4.0])
    assert shift.dtype == scale.dtype == torch.float64
    mean, deviation = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    assert shift.tolist() == pytest.approx([*mean, 0.0, 0.0])
    assert scale.tolist() == pytest.approx([1 / deviation[0], 0.0, 1 / deviation[2], 0.5, 4.0])


@pytest.mark.parametrize("chunk", [3, 5, 100])
def test_the_mean_over_two_arrays_is_that_of_all_their_rows(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    one, two = _rows(7), _rows(10, seed=1)
    expected = np.concatenate([one, two]).mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(mean_over(one, two), expected)
    np.testing.assert_allclose(mean_over(one, two[:0]), one.mean(axis=0, dtype=np.float64))
