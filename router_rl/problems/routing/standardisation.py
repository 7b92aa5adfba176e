"""Shift and scale that standardise features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["standardisation"]

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
    deviation = np.sqrt(square / len(features))
    # A (nearly) constant feature carries no information and must not be amplified.
    scale = np.where(deviation > 1e-6, 1.0 / np.maximum(deviation, 1e-6), 0.0)
    shift = np.concatenate([mean, np.zeros(len(state_scale))])
    scale = np.concatenate([scale, np.array(state_scale)])
    return torch.from_numpy(shift), torch.from_numpy(scale)
