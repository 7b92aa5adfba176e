"""Two ways to dispatch rows to their experts and combine the results: by sorting, or by a mask per expert."""

from __future__ import annotations

import torch
from torch import Tensor

from ...routing.kernels import Routed, mix

__all__ = ["by_mask", "by_sorting"]


def by_sorting(hidden: Tensor, routed: Routed, factors: Tensor) -> Tensor:
    """Sort the slots by expert, run each expert on its rows, and add up.

    Args:
        hidden: [T, H] float.
        routed: the gate's output.
        factors: [E] float; an expert only multiplies by its factor, so that the time is the dispatch's.

    Returns:
        [T, H] float: the weighted sum of the experts' outputs.
    """
    return mix(hidden, routed, lambda expert, rows: rows.mul_(factors[expert]), len(factors))


def by_mask(hidden: Tensor, routed: Routed, factors: Tensor) -> Tensor:
    """Select each expert's rows by a mask over all slots, as model code often does.

    Args:
        hidden: [T, H] float.
        routed: the gate's output.
        factors: [E] float, as for `by_sorting`.

    Returns:
        [T, H] float: the weighted sum of the experts' outputs.
    """
    mixed = torch.zeros_like(hidden)
    mask = torch.nn.functional.one_hot(routed.experts, len(factors)).permute(2, 1, 0)
    for expert in range(len(factors)):
        slot, row = torch.where(mask[expert])
        output = hidden[row] * factors[expert] * routed.weights[row, slot].unsqueeze(-1)
        mixed.index_add_(0, row, output)
    return mixed
