"""Quantised experts: rounded weights, and a token-level pool measured with them.

A quantised kernel has no backward pass and rounding has no useful gradient, so a gate that is trained by
backpropagation needs unquantised experts. Losses along the experts' paths can be measured with either.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from ..io.errors import InputError
from .sequences import Sequences
from .tail import Tail
from .token_pool import TokenPool

__all__ = ["quantised_pool", "rounded"]


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Return a weight rounded symmetrically to `bits` bits with one scale per row, in its own dtype.

    Args:
        weight: [..., out, in] float.
        bits: 2 to 8; levels are -(2^(bits-1) - 1) to 2^(bits-1) - 1.

    Raises:
        InputError: bits are not in 2 to 8.

    >>> rounded(torch.tensor([[1.0, -0.4, 0.1]]), 2)
    tensor([[1., -0., 0.]])
    """
    if not 2 <= bits <= 8:
        raise InputError("bits", bits, "is not in 2 to 8", "use 4 or 8")
    highest = 2 ** (bits - 1) - 1
    scale = weight.float().abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / highest
    return ((weight.float() / scale).round() * scale).to(weight.dtype)


def quantised_pool(pool: TokenPool, bits: int, batch: int = 16) -> TokenPool:
    """Return a pool with rounded experts and new path losses; the trunk and attention do not change.

    Args:
        pool: to quantise.
        bits: 2 to 8.
        batch: sequences per forward pass.

    Raises:
        InputError: bits are not in 2 to 8.
    """
    tail = copy.deepcopy(pool.tail)
    for weights in (tail.gate, tail.up, tail.down):
        weights.copy_(rounded(weights, bits))
    parts = {name: _measured(part, tail, batch) for name, part in pool.parts.items()}
    return replace(pool, name=f"{pool.name}, {bits} bits", tail=tail, parts=parts)


@torch.no_grad()
def _measured(sequences: Sequences, tail: Tail, batch: int) -> Sequences:
    losses: list[Tensor] = []
    for rows in torch.arange(len(sequences)).split(batch):
        hidden, targets = sequences.states(rows), sequences.targets(rows)
        paths = [tail.loss(tail.along(hidden, e), targets) for e in range(tail.experts)]
        losses.append(torch.stack(paths, dim=1))
    return replace(sequences, path_loss=torch.cat(losses).numpy())
