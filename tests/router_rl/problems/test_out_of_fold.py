"""Out-of-fold predictions with one more fold held out: by the slow way, and blind to both folds."""

from __future__ import annotations

import numpy as np

from router_rl.problems.cross_fitting import folds_of, twice_held_out
from router_rl.problems.out_of_fold import OutOfFold

FOLD = np.array([0, 1, 2, 0, 1, 2, 2, 1])
FOLDS = folds_of(FOLD)


def _fitted_folds(fitted: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return predictions that name the folds fitted to: 2 to the power of each, summed."""
    return np.full((len(rows), 1), float(sum(2 ** int(fold) for fold in np.unique(FOLD[fitted]))))


def test_kills_held_out_rows_among_the_fitted() -> None:
    for number, (fitted, held) in enumerate(FOLDS):
        assert (FOLD[held] == number).all()
        assert (FOLD[fitted] != number).all()
        assert len(fitted) + len(held) == len(FOLD)


def test_kills_predictions_fitted_to_the_further_fold() -> None:
    """A row of fold g with fold f held out is predicted by a model of the third fold alone."""
    out_of_fold = np.array([[sum(2.0**other for other in range(3) if other != own)] for own in FOLD])
    found = twice_held_out(FOLDS, out_of_fold, _fitted_folds)
    for further in range(3):
        for row, own in enumerate(FOLD):
            expected = sum(2.0**other for other in range(3) if other not in (own, further))
            assert found[further, row, 0] == expected


def test_kills_features_fitted_to_the_held_out_fold() -> None:
    """The columns of predictions are those made without the fold; other columns stay."""
    without = np.arange(3.0)[:, None, None] * np.ones((1, len(FOLD), 2), dtype=np.float32)
    predictions = OutOfFold(columns=((1,), (3,)), fold=FOLD, without=without)
    features = np.full((len(FOLD), 4), 9.0)
    for fold in range(3):
        np.testing.assert_array_equal(
            predictions.features(features, fold), np.tile([9.0, fold, 9.0, fold], (len(FOLD), 1))
        )
    assert (features == 9.0).all()


def test_kills_folds_of_rows_that_are_left_out() -> None:
    without = np.arange(3.0)[:, None, None] * np.ones((1, len(FOLD), 1), dtype=np.float32)
    part = OutOfFold(columns=((0,),), fold=FOLD, without=without).take(FOLDS[1][0])
    assert sorted(set(part.fold.tolist())) == [0, 2]
    assert part.without[:, 0, 0].tolist() == [0.0, 2.0]
    assert part.without.shape[1] == len(part.fold) == 5
