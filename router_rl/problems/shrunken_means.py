"""Means by group, shrunk to the overall mean, so that small groups rely on all rows.

`(n_g mean_g + s mean) / (n_g + s)`: the m-estimate, Cestnik 1990; empirical Bayes, Efron and Morris 1975.
Where outcomes are missing, an expert's means and its n_g are of the rows that it answered.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["shrunken_means"]


def shrunken_means(utility: Tensor, group: Tensor, groups: int, strength: float) -> Tensor:
    """Return each group's mean utility, shrunk to the overall mean, then the latter: [G + 1, N].

    An expert that answered no row has the mean of all others' outcomes.

    Args:
        utility: [T, N] float, NaN where an outcome is missing.
        group: [T] int64, 0 to G - 1, each present.
        groups: G.
        strength: weight of the overall mean, in rows.

    >>> u = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.6]])
    >>> shrunken_means(u, torch.tensor([0, 0, 1]), 2, 1.0)
    tensor([[0.8889, 0.0667],
            [0.3333, 0.4000],
            [0.6667, 0.2000]])
    """
    if utility.numel() and bool(utility.isnan().any()):
        return _of_answered(utility, group, groups, strength)
    overall = utility.mean(dim=0, keepdim=True)
    total = torch.zeros(groups, utility.shape[1]).to(utility).index_add(0, group, utility)
    rows = torch.bincount(group, minlength=groups).to(utility).unsqueeze(-1)
    return torch.cat([(total + strength * overall) / (rows + strength), overall])


def _of_answered(utility: Tensor, group: Tensor, groups: int, strength: float) -> Tensor:
    """Return the same means over the outcomes that are not missing."""
    answered = (~utility.isnan()).to(utility)
    known = utility.nan_to_num(nan=0.0)  # a missing outcome adds nothing to a sum, and nothing to its count
    count = answered.sum(dim=0, keepdim=True)
    overall = torch.where(count > 0, known.sum(dim=0, keepdim=True) / count, known.sum() / answered.sum())
    zeros = torch.zeros(groups, utility.shape[1]).to(utility)
    total, rows = zeros.index_add(0, group, known), zeros.index_add(0, group, answered)
    # Without shrinkage, the mean of a group that an expert never answered is its overall mean.
    weight = torch.where(rows + strength > 0, strength, 1.0)
    return torch.cat([(total + weight * overall) / (rows + weight), overall])
