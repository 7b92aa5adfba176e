"""Shift and scale that standardise features, and means over the rows of two splits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from experts.table.mapped_column import released

__all__ = ["mean_over", "standardisation"]

_CHUNK = 65_536  # rows converted to float64 at a time, so that memory-mapped features are not copied


def standardisation(features: np.ndarray, state_scale: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return shift and scale of a scorer's inputs: `(x - shift) * scale` has mean 0 and standard deviation 1.

    Args:
        features: [T, D] float32, possibly memory-mapped.
        state_scale: [S] scale of each input after the features; these are not shifted.

    Returns:
        shift and scale, float64, [D + S] each.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    square = np.zeros_like(mean)
    for first in range(0, len(features), _CHUNK):
        square += ((features[first : first + _CHUNK] - mean) ** 2).sum(axis=0)
    released(features)
    deviation = np.sqrt(square / len(features))
    # A (nearly) constant feature carries no information and must not be amplified.
    scale = np.where(deviation > 1e-6, 1.0 / np.maximum(deviation, 1e-6), 0.0)
    shift = np.concatenate([mean, np.zeros(len(state_scale))])
    scale = np.concatenate([scale, np.array(state_scale)])
    return torch.from_numpy(shift), torch.from_numpy(scale)


def mean_over(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the mean over the rows of both arrays, [N] float64, without a copy of them.

    Args:
        one: [T, N] float32.
        two: [S, N] float32.
    """
    total = one.sum(axis=0, dtype=np.float64)
    for row in range(0, len(two), _CHUNK):
        # Row by row, in the order of a sum over both arrays, so that rounding is the same.
        stacked = np.concatenate([total[None], two[row : row + _CHUNK].astype(np.float64)])
        total = stacked.sum(axis=0)
    return total / (len(one) + len(two))
