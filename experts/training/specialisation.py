"""Specialisation of experts: mutual information of the responsible expert and a row's condition."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["entropy_bits", "mutual_information_bits"]


def mutual_information_bits(conditions: Tensor, responsibilities: Tensor) -> float:
    """Return the mutual information `I(C; E)` in bits of `p(c, e) = sum_t 1[c_t = c] h_te / T`.

    Args:
        conditions: [T] int64, numbered from 0.
        responsibilities: [T, N] float, rows sum to 1.

    Returns:
        Bits: 0 if experts do not depend on the condition, its entropy if each condition has its own expert.

    >>> mutual_information_bits(torch.tensor([0, 0, 1, 1]), torch.eye(2).repeat_interleave(2, 0))
    1.0
    """
    joint = responsibilities.new_zeros(int(conditions.max()) + 1, responsibilities.shape[1])
    joint = joint.index_add(0, conditions, responsibilities) / len(conditions)
    return entropy_bits(joint.sum(dim=1)) + entropy_bits(joint.sum(dim=0)) - entropy_bits(joint.reshape(-1))


def entropy_bits(p: Tensor) -> float:
    """Return the entropy `-sum_i p_i log2 p_i` in bits of a distribution p [n] float."""
    return float(torch.special.entr(p.double()).sum()) / float(
        torch.log(torch.tensor(2.0, dtype=torch.float64))
    )
