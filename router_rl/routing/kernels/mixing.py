"""What a mixture-of-experts layer does after its gate: rows to their experts and back, weighted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .kernel_rule import Dispatch, Routed
from .torch_path import dispatch, gather, scatter_back

__all__ = ["mix"]

# Bytes of the rows of all slots, from which an expert's rows are fetched only when it runs: together they no
# longer fit into a processor's last-level cache, and Linux allocates such a large block anew each time.
_FETCHED_AT_ONCE = 2**24


@torch.no_grad()
def mix(hidden: Tensor, routed: Routed, run: Callable[[int, Tensor], Tensor], experts: int) -> Tensor:
    """The experts' combined outputs of each row [T, H], `sum_j weights[t, j] run(experts[t, j], hidden[t])`.

    Slots are sorted by expert, so that each expert runs once. Few rows are fetched for all experts at once,
    many for one expert after the other. It waits for the device: an expert's number of rows is needed in
    Python. For inference: it has no gradient.

    Args:
        hidden: [T, H] float.
        routed: the gate's output.
        run: an expert's id and its rows [n, H] to its outputs [n, H]; it may write to its rows.
        experts: E.
    """
    slots = dispatch(routed.experts, experts) if routed.dispatch is None else routed.dispatch
    counts = [int(count) for count in slots.counts.tolist()]
    if hidden.element_size() * hidden.shape[1] * len(slots.order) < _FETCHED_AT_ONCE:
        return _at_once(hidden, routed, run, slots, counts)
    return _one_by_one(hidden, routed, run, slots, counts)


def _at_once(
    hidden: Tensor,
    routed: Routed,
    run: Callable[[int, Tensor], Tensor],
    slots: Dispatch,
    counts: list[int],
) -> Tensor:
    rows = gather(hidden, slots)
    for expert, part in enumerate(rows.split(counts)):
        if counts[expert]:
            output = run(expert, part)
            if output is not part:
                part.copy_(output)
    return scatter_back(rows, routed.weights, slots)


def _one_by_one(
    hidden: Tensor,
    routed: Routed,
    run: Callable[[int, Tensor], Tensor],
    slots: Dispatch,
    counts: list[int],
) -> Tensor:
    weights, k = routed.weights.to(hidden.dtype).flatten(), routed.weights.shape[1]
    order = slots.order.long()
    rows, weights = torch.div(order, k, rounding_mode="floor"), weights[order].unsqueeze(-1)
    mixed = torch.zeros_like(hidden)
    for expert, (row, weight) in enumerate(zip(rows.split(counts), weights.split(counts), strict=True)):
        if counts[expert]:
            mixed.index_add_(0, row, run(expert, hidden.index_select(0, row)) * weight)
    return mixed
