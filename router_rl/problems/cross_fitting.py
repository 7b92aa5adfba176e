"""Rows held out in turn, so that what is told of a row comes from rows that have not seen it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experts import OutcomeTable

__all__ = ["Fold", "fold_numbers", "folds_of", "held_out", "twice_held_out"]

Fold = tuple[np.ndarray, np.ndarray]  # rows seen, rows held out


def held_out(table: OutcomeTable, count: int, seed: int) -> list[Fold]:
    """Rows seen and rows held out, of each of `fold_numbers`."""
    return folds_of(fold_numbers(table, count, seed))


def folds_of(number: np.ndarray) -> list[Fold]:
    """Rows seen and rows held out, of each fold, from the fold of each row [T]."""
    return [(np.flatnonzero(number != each), np.flatnonzero(number == each)) for each in np.unique(number)]


def fold_numbers(table: OutcomeTable, count: int, seed: int) -> np.ndarray:
    """The fold of each row, [T] int64.

    The table's own folds where it has several: whoever made them knew what belongs together, such as the
    turns of a conversation. Else `count` random ones; rows of the same prompt stay together.

    Args:
        table: T rows.
        count: folds, where the table has none.
        seed: of the draw.
    """
    if table.fold is not None and len(np.unique(table.fold)) > 1:
        return np.asarray(table.fold)
    keys = np.arange(len(table)) if table.prompt is None else _numbered(table.prompt)
    keys = np.arange(len(table)) if len(np.unique(keys)) < 2 else keys
    return (np.random.default_rng(seed).permutation(int(keys.max()) + 1) % count)[keys]


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


def _numbered(prompts: np.ndarray) -> np.ndarray:
    """A number for each prompt, the same for prompts that differ in white space alone, [T] int64."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(" ".join(str(prompt).split()), len(numbers)) for prompt in prompts])
