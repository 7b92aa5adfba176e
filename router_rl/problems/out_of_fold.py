"""Columns of the features that estimate what each expert is worth, and what they were with a fold away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .cross_fitting import Fold, folds_of

__all__ = ["OutOfFold"]


@dataclass(frozen=True, eq=False, kw_only=True)
class OutOfFold:
    """Estimates among the features of M training rows, each from regressions that have not seen the row.

    That is enough to learn from them, not to judge by the same folds what was learned: the estimates of the
    rows seen come from regressions that saw the rows held out. They lean away from those rows' outcomes, and
    whatever corrects them on the rows seen looks worse on the rows held out than it is. So the estimates are
    here once more for each fold, from regressions that have seen neither the row nor the fold.

    Attributes:
        columns: of the features, N a regression.
        fold: [M] int64, the fold of each row.
        without: [F, M, C] float32, the columns in order as they are with a fold away.
    """

    columns: tuple[tuple[int, ...], ...]
    fold: np.ndarray
    without: np.ndarray

    @property
    def folds(self) -> list[Fold]:
        """Rows seen and held out, of each of the F folds."""
        return folds_of(self.fold)

    def features(self, features: np.ndarray, fold: int) -> np.ndarray:
        """The features [M, D] of the training rows with a fold away."""
        found = np.array(features)
        found[:, [column for group in self.columns for column in group]] = self.without[fold]
        return found

    def take(self, rows: np.ndarray) -> OutOfFold:
        """The readouts of some of the rows (int64 [R]), and of the folds that hold any of them."""
        fold = self.fold[rows]
        kept = np.isin(np.unique(self.fold), fold)
        return OutOfFold(columns=self.columns, fold=fold, without=self.without[kept][:, rows])
