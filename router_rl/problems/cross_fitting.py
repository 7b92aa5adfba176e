"""Cross-fitting: folds of training rows, and predictions of rows by models that were not fitted to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experts import OutcomeTable
from experts.table.splitting import canonical

__all__ = ["Fold", "fold_numbers", "folds_of", "held_out", "twice_held_out"]

Fold = tuple[np.ndarray, np.ndarray]  # fitted rows, held-out rows


def held_out(table: OutcomeTable, count: int, seed: int) -> list[Fold]:
    """Return (fitted rows, held-out rows) of each fold of `fold_numbers`."""
    return folds_of(fold_numbers(table, count, seed))


def folds_of(number: np.ndarray) -> list[Fold]:
    """Return (fitted rows, held-out rows) of each fold, from the fold of each row [T]."""
    return [(np.flatnonzero(number != each), np.flatnonzero(number == each)) for each in np.unique(number)]


def fold_numbers(table: OutcomeTable, count: int, seed: int) -> np.ndarray:
    """Return the fold of each row, [T] int64.

    If the table has several folds, they are used: they keep together rows that belong together, such as the
        turns of a
    conversation. Otherwise rows are assigned at random; rows with the same prompt share a fold.

    Args:
        table: T rows.
        count: number of folds, if the table has none.
        seed: random seed.
    """
    if table.fold is not None and len(np.unique(table.fold)) > 1:
        return np.asarray(table.fold)
    keys = np.arange(len(table)) if table.prompt is None else _numbered(table.prompt)
    keys = np.arange(len(table)) if len(np.unique(keys)) < 2 else keys
    return (np.random.default_rng(seed).permutation(int(keys.max()) + 1) % count)[keys]


def twice_held_out(
    folds: Sequence[Fold],
    out_of_fold: np.ndarray,
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Return predictions of every row by models fitted without its fold and without one further fold.

    With two folds no rows are left to fit to; the out-of-fold predictions are then kept.

    Args:
        folds: F folds of M rows.
        out_of_fold: [M, N] float, out-of-fold predictions.
        predict: maps rows to fit to and rows to predict [R] to predictions [R, N].

    Returns:
        [F, M, N] float; the first index is the further fold.
    """
    predictions = np.repeat(out_of_fold[None], len(folds), axis=0)
    for one, (fitted, held) in enumerate(folds):
        for other, (_, also) in enumerate(folds[:one]):
            rest = np.setdiff1d(fitted, also)
            if len(rest):
                both = predict(rest, np.concatenate([held, also]))
                predictions[other, held], predictions[one, also] = both[: len(held)], both[len(held) :]
    return predictions


def _numbered(prompts: np.ndarray) -> np.ndarray:
    """Return a number for each prompt, equal for prompts that differ only in white space, [T] int64.

    Each missing prompt has its own number: rows without a prompt have nothing in common.
    """
    numbers: dict[str | int, int] = {}
    keys = (canonical(prompt) or row for row, prompt in enumerate(prompts))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])
