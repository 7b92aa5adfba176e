"""Estimates with a fold away: by the slow way, and blind to the fold."""

from __future__ import annotations

import numpy as np
import pytest

from router_rl.readouts import Readouts, twice_held_out

FOLD = np.array([0, 1, 2, 0, 1, 2, 2, 1])
FOLDS = tuple((np.flatnonzero(each != FOLD), np.flatnonzero(each == FOLD)) for each in range(3))
QUALITY = np.random.default_rng(0).random((8, 2))


def _mean(seen: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.tile(QUALITY[seen].mean(axis=0), (len(rows), 1))


def test_each_row_is_told_of_by_rows_of_neither_fold() -> None:
    unseen = np.stack([QUALITY[FOLD[row] != FOLD].mean(axis=0) for row in range(8)])
    found = twice_held_out(FOLDS, unseen, _mean)
    for away in range(3):
        for row in range(8):
            told = (away != FOLD) & (FOLD[row] != FOLD)
            assert found[away, row] == pytest.approx(QUALITY[told].mean(axis=0))


def test_with_two_folds_the_rows_seen_keep_what_they_have() -> None:
    fold = np.array([0, 1, 0, 1])
    folds = [(np.flatnonzero(fold != each), np.flatnonzero(fold == each)) for each in range(2)]
    unseen = np.arange(8.0).reshape(4, 2)
    assert (twice_held_out(folds, unseen, _mean) == unseen).all()


def test_features_have_the_readouts_of_a_fold_away() -> None:
    without = np.arange(3 * 8 * 2, dtype=np.float32).reshape(3, 8, 2)
    readouts = Readouts(columns=((1,), (3,)), folds=FOLDS, without=without)
    own = np.full((8, 4), -1.0)
    made = readouts.features(own, 2)
    assert (made[:, [1, 3]] == without[2]).all()
    assert (made[:, [0, 2]] == -1.0).all()
    assert (own == -1.0).all()


def test_taking_rows() -> None:
    without = np.arange(3 * 8 * 2, dtype=np.float32).reshape(3, 8, 2)
    taken = Readouts(columns=((0, 1),), folds=FOLDS, without=without).take(np.array([0, 2, 3, 6]))
    assert [(seen.tolist(), held.tolist()) for seen, held in taken.folds] == [
        ([1, 3], [0, 2]),
        ([0, 2], [1, 3]),
    ]
    assert (taken.without == without[[0, 2]][:, [0, 2, 3, 6]]).all()
