"""Columns of the features that estimate what each expert is worth, and what they were with a fold away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Fold", "Readouts", "twice_held_out"]

Fold = tuple[np.ndarray, np.ndarray]  # rows seen, rows held out


@dataclass(frozen=True, eq=False, kw_only=True)
class Readouts:
    """Estimates among the features of M training rows, each from regressions that have not seen the row.

    That is enough to learn from them, not to judge by the same folds what was learned: the estimates of the
    rows seen come from regressions that saw the rows held out. They lean away from those rows' outcomes, and
    whatever corrects them on the rows seen looks worse on the rows held out than it is. So the estimates are
    here once more for each fold, from regressions that have seen neither the row nor the fold.

    Attributes:
        columns: of the features, N a regression.
        folds: rows seen and held out, of each of the F folds.
        without: [F, M, C] float32, the columns in order as they are with a fold away.
    """

    columns: tuple[tuple[int, ...], ...]
    folds: tuple[Fold, ...]
    without: np.ndarray

    def features(self, features: np.ndarray, fold: int) -> np.ndarray:
        """The features [M, D] of the training rows with a fold away."""
        found = np.array(features)
        found[:, [column for group in self.columns for column in group]] = self.without[fold]
        return found

    def take(self, rows: np.ndarray) -> Readouts:
        """The readouts of some of the rows (int64 [R]), and of the folds that hold any of them."""
        place = np.full(self.without.shape[1], -1)
        place[rows] = np.arange(len(rows))
        kept = [fold for fold, (_, held) in enumerate(self.folds) if (place[held] >= 0).any()]
        folds = [tuple(place[part][place[part] >= 0] for part in self.folds[fold]) for fold in kept]
        return Readouts(
            columns=self.columns,
            folds=tuple((seen, held) for seen, held in folds),
            without=self.without[kept][:, rows],
        )


def twice_held_out(
    folds: Sequence[Fold], unseen: np.ndarray, predict: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Predictions [F, M, N] of every row by what has seen neither its fold nor one more.

    Args:
        folds: F, of M rows.
        unseen: [M, N], of every row by what has not seen its fold.
        predict: rows to fit to, and rows to predict [R], to their predictions [R, N].

    With two folds nothing is left to fit to; the rows seen keep what they have.
    """
    found = np.repeat(unseen[None], len(folds), axis=0)
    for one, (seen, held) in enumerate(folds):
        for other, (_, also) in enumerate(folds[:one]):
            rest = np.setdiff1d(seen, also)
            if len(rest):
                said = predict(rest, np.concatenate([held, also]))
                found[other, held], found[one, also] = said[: len(held)], said[len(held) :]
    return found
