"""How far experts have specialised: what the responsible expert tells about a row's condition."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["entropy_bits", "mutual_information_bits"]


def mutual_information_bits(conditions: Tensor, responsibilities: Tensor) -> float:
    """`I(C; E)` in bits, of the joint `p(c, e) = sum_t 1[c_t = c] h_te / T`.

    Args:
        conditions: [T] int64, from 0.
        responsibilities: [T, N] float, rows sum to 1.

    Returns:
        0 where experts ignore the condition, the condition's entropy where each has its own.

    >>> mutual_information_bits(torch.tensor([0, 0, 1, 1]), torch.eye(2).repeat_interleave(2, 0))
    1.0
    """
    joint = responsibilities.new_zeros(int(conditions.max()) + 1, responsibilities.shape[1])
    joint = joint.index_add(0, conditions, responsibilities) / len(conditions)
    return entropy_bits(joint.sum(dim=1)) + entropy_bits(joint.sum(dim=0)) - entropy_bits(joint.reshape(-1))


def entropy_bits(p: Tensor) -> float:
    """`-sum_i p_i log2 p_i` of a distribution [n]."""
    return float(torch.special.entr(p.double()).sum()) / float(
        torch.log(torch.tensor(2.0, dtype=torch.float64))
    )
