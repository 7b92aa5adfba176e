"""Rows held out in turn, so that what is told of a row comes from rows that have not seen it."""

from __future__ import annotations

import numpy as np

from experts import OutcomeTable

__all__ = ["held_out"]


def held_out(table: OutcomeTable, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows seen and rows held out, of each fold.

    The table's own folds where it has several: whoever made them knew what belongs together, such as the
    turns of a conversation. Else `count` random ones; rows of the same prompt stay together.

    Args:
        table: T rows.
        count: folds, where the table has none.
        seed: of the draw.
    """
    if table.fold is not None and len(np.unique(table.fold)) > 1:
        fold = table.fold
    else:
        keys = np.arange(len(table)) if table.prompt is None else _numbered(table.prompt)
        keys = np.arange(len(table)) if len(np.unique(keys)) < 2 else keys
        fold = (np.random.default_rng(seed).permutation(int(keys.max()) + 1) % count)[keys]
    return [(np.flatnonzero(fold != each), np.flatnonzero(fold == each)) for each in np.unique(fold)]


def _numbered(prompts: np.ndarray) -> np.ndarray:
    """A number for each prompt, the same for prompts that differ in white space alone, [T] int64."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(" ".join(str(prompt).split()), len(numbers)) for prompt in prompts])
