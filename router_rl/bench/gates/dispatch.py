"""Two ways to bring rows to their experts and back: sorted slots, or a mask for every expert."""

from __future__ import annotations

import torch
from torch import Tensor

from ...routing.kernels import Routed, gather, scatter_back

__all__ = ["by_mask", "by_sorting"]


def by_sorting(hidden: Tensor, routed: Routed, factors: Tensor) -> Tensor:
    """Gather the rows in the order of their experts, run each expert on its slice, scatter back.

    Args:
        hidden: [T, H] float.
        routed: with its dispatch.
        factors: [E] float: an expert multiplies by its factor, so that little but the moving is timed.
    """
    assert routed.dispatch is not None
    rows = gather(hidden, routed.dispatch)
    counts = [int(count) for count in routed.dispatch.counts.tolist()]
    for expert, part in enumerate(rows.split(counts)):
        if len(part):
            part.mul_(factors[expert])
    return scatter_back(rows, routed.weights, routed.dispatch)


def by_mask(hidden: Tensor, routed: Routed, factors: Tensor) -> Tensor:
    """Look for each expert's rows among all slots and add what it makes of them, as model code often does."""
    mixed = torch.zeros_like(hidden)
    mask = torch.nn.functional.one_hot(routed.experts, len(factors)).permute(2, 1, 0)
    for expert in range(len(factors)):
        slot, row = torch.where(mask[expert])
        made = hidden[row] * factors[expert] * routed.weights[row, slot].unsqueeze(-1)
        mixed.index_add_(0, row, made)
    return mixed
