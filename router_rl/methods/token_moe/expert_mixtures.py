"""Mixtures of frozen experts' outputs, `sum_e w_e E_e(x)`, differentiable in the weights and the inputs.

All have the same arguments: the frozen layers, the layer number, gate inputs x [..., H] float32 and weights
w [..., N] float32; they return [..., H] float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from experts.moe.tail import Tail

from ...routing.selection.topk import largest

__all__ = ["dense_mix", "sparse_mix", "straight_through_mix"]


def dense_mix(tail: Tail, layer: int, x: Tensor, weights: Tensor) -> Tensor:
    """Run every expert."""
    return (tail.outputs(layer, x) * weights.unsqueeze(-1)).sum(dim=-2)


def sparse_mix(tail: Tail, layer: int, x: Tensor, weights: Tensor) -> Tensor:
    """Run only experts with nonzero weight."""
    k = int((weights > 0).sum(dim=-1).max())
    experts = largest(weights.detach(), k)
    top = weights.gather(-1, experts)
    return tail.mix(layer, x, torch.where(top > 0, experts, tail.experts), top)


def straight_through_mix(tail: Tail, layer: int, x: Tensor, weights: Tensor) -> Tensor:
    """Run every expert for weights whose values are one-hot, with the gradient of `dense_mix`.

    The gradient of the inputs comes from the selected expert alone, so the others run without a graph.
    """
    with torch.no_grad():
        outputs = tail.outputs(layer, x)
    own = largest(weights.detach(), 1)
    selected = tail.mix(layer, x, own, torch.ones_like(own, dtype=x.dtype))
    return selected + (outputs * (weights - weights.detach()).unsqueeze(-1)).sum(dim=-2)
