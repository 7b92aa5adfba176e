"""Two ways to dispatch rows to their experts and combine the results: by sorting, or by a mask per expert."""

from __future__ import annotations

import torch
from torch import Tensor

from ...routing.kernels import Routed, gather, scatter_back

__all__ = ["by_mask", "by_sorting"]


def by_sorting(hidden: Tensor, routed: Routed, factors: Tensor) -> Tensor:
    """Sort the rows by expert, run each expert on its slice, and scatter the results back.

    Args:
        hidden: [T, H] float.
        routed: the gate's output, with its dispatch.
        factors: [E] float; an expert only multiplies by its factor, so that the time is the dispatch's.

    Returns:
        [T, H] float: the weighted sum of the experts' outputs.
    """
    assert routed.dispatch is not None
    rows = gather(hidden, routed.dispatch)
    counts = [int(count) for count in routed.dispatch.counts.tolist()]
    for expert, part in enumerate(rows.split(counts)):
        if len(part):
            part.mul_(factors[expert])
    return scatter_back(rows, routed.weights, routed.dispatch)


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
