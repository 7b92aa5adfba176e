"""Weights of the experts that a token runs, for the environments that route tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Weigh", "equal_weights"]

# Layer number, gate inputs [..., H] and experts [..., k] to weights [..., k].
Weigh = Callable[[int, Tensor, Tensor], Tensor]


def equal_weights(layer: int, x: Tensor, experts: Tensor) -> Tensor:
    """Return equal weights that sum to 1, [..., k] float32.

    Args:
        layer, x: not used.
        experts: [..., k] int64.
    """
    return torch.full(experts.shape, 1.0 / experts.shape[-1])
