"""Out-of-fold predictions among the features (stacking), and their values when one more fold is held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .cross_fitting import Fold, folds_of

__all__ = ["OutOfFold"]


@dataclass(frozen=True, eq=False, kw_only=True)
class OutOfFold:
    """Out-of-fold predictions among the features of M training rows.

    Each prediction comes from a regression that was not fitted to its row. That suffices to train on them,
    but not to cross-validate with the same folds: the predictions of the fitted rows come from regressions
    that used the held-out rows, which biases the comparison. So the predictions are also stored for each
    held-out fold, from regressions that used neither the row nor that fold.

    Attributes:
        columns: columns of the features, N per regression.
        fold: [M] int64, fold of each row.
        without: [F, M, C] float32, values of these columns when each of the F folds is held out.
    """

    columns: tuple[tuple[int, ...], ...]
    fold: np.ndarray
    without: np.ndarray

    @property
    def folds(self) -> list[Fold]:
        """(fitted rows, held-out rows) of each of the F folds."""
        return folds_of(self.fold)

    def features(self, features: np.ndarray, fold: int) -> np.ndarray:
        """Return the features [M, D] of the training rows when a fold is held out."""
        replaced = np.array(features)
        replaced[:, [column for group in self.columns for column in group]] = self.without[fold]
        return replaced

    def take(self, rows: np.ndarray) -> OutOfFold:
        """Return the predictions of some rows (int64 [R]), and of the folds that contain any of them."""
        fold = self.fold[rows]
        kept = np.isin(np.unique(self.fold), fold)
        return OutOfFold(columns=self.columns, fold=fold, without=self.without[kept][:, rows])
