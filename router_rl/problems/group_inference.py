"""Fit the classifier that infers a prompt's group, and its columns for the training rows.

For a training row, the probabilities come from a classifier that was not fitted to the row's fold, and the
experts' mean qualities from the other folds: a router that is trained on them does not overrate them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import softmax

from ..routing.group_probabilities import InferredGroup
from .cross_fitting import Fold, twice_held_out
from .group_classifier import fit_group_classifier, fit_temperature
from .ngram_matrix import NgramMatrix
from .shrunken_means import shrunken_means

__all__ = ["FittedInference", "fit_inferred_group", "shrunken_quality"]

_INVERSE_PENALTY = 10.0  # C of the logistic regression; the temperature corrects its overconfidence
_TOLERANCE = 1e-3  # a smaller one takes minutes with many groups
_STRENGTH = 5.0  # weight of the overall mean, in rows


class FittedInference(NamedTuple):
    """The part, and its values for the training rows.

    Attributes:
        part: infers the group of a prompt.
        columns: [M, G + N] float64, out of fold.
        without: [F, M, N] float64, the last N columns when each fold is held out. The experts' means are then
            fitted without it too. Probabilities stay: they read no outcome.
    """

    part: InferredGroup
    columns: np.ndarray
    without: np.ndarray


def fit_inferred_group(
    ngrams: NgramMatrix, groups: Sequence[str], quality: np.ndarray, folds: Sequence[Fold]
) -> FittedInference | None:
    """Fit the classifier; None where fewer than two groups have training rows.

    Args:
        ngrams: of M training prompts.
        groups: the group of each.
        quality: [M, N] float64; N is 0 where outcomes are not used.
        folds: (fitted rows, held-out rows) of each of the F folds.
    """
    labels, index = np.unique(list(groups), return_inverse=True)
    if len(labels) < 2:
        return None
    every = np.arange(len(index))
    logits = np.empty((len(index), len(labels)))
    for fitted, held in folds:
        rows = fitted if len(fitted) else held
        weight, offset = _classifier(ngrams.x[rows], index[rows], len(labels))
        logits[held] = ngrams.x[held] @ weight.T + offset
    temperature = fit_temperature(logits, index)
    probability = softmax(logits / temperature, axis=1)

    def expected(fitted: np.ndarray, rows: np.ndarray) -> np.ndarray:
        fitted = fitted if len(fitted) else every
        means = shrunken_quality(quality[fitted], index[fitted], len(labels))
        return probability[rows] @ means[:-1]

    means = np.empty_like(quality)
    for fitted, held in folds:
        means[held] = expected(fitted, held)
    weight, offset = _classifier(ngrams.x, index, len(labels))
    part = InferredGroup(
        labels=[str(label) for label in labels],
        values=torch.tensor(shrunken_quality(quality, index, len(labels))[:-1], dtype=torch.float32),
        temperature=temperature,
        projection=torch.tensor(weight.T, dtype=torch.float32),
        offset=torch.tensor(offset, dtype=torch.float32),
        terms=ngrams.settings,
        idf=None if ngrams.idf is None else ngrams.idf.clone(),  # tensors of a file share no memory
    )
    return FittedInference(part, np.hstack([probability, means]), twice_held_out(folds, means, expected))


def shrunken_quality(quality: np.ndarray, index: np.ndarray, groups: int) -> np.ndarray:
    """Return each expert's mean quality per group, shrunk to the overall mean (last row): [G + 1, N].

    Args:
        quality: [M, N] float64.
        index: [M] int, the group of each row.
        groups: G.
    """
    return shrunken_means(torch.from_numpy(quality), torch.from_numpy(index), groups, _STRENGTH).numpy()


def _classifier(x: Any, index: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weight [G, V] and bias [G] on n-grams."""
    return fit_group_classifier(x, index, groups, inverse_penalty=_INVERSE_PENALTY, tolerance=_TOLERANCE)
