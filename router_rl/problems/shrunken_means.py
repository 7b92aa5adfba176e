"""Means by group, shrunk to the overall mean, so that small groups rely on all rows.

`(n_g mean_g + s mean) / (n_g + s)`: the m-estimate, Cestnik 1990; empirical Bayes, Efron and Morris 1975.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["shrunken_means"]


def shrunken_means(utility: Tensor, group: Tensor, groups: int, strength: float) -> Tensor:
    """Return each group's mean utility, shrunk to the overall mean, then the latter: [G + 1, N].

    Args:
        utility: [T, N] float.
        group: [T] int64, 0 to G - 1, each present.
        groups: G.
        strength: weight of the overall mean, in rows.

    >>> u = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.6]])
    >>> shrunken_means(u, torch.tensor([0, 0, 1]), 2, 1.0)
    tensor([[0.8889, 0.0667],
            [0.3333, 0.4000],
            [0.6667, 0.2000]])
    """
    overall = utility.mean(dim=0, keepdim=True)
    total = torch.zeros(groups, utility.shape[1]).to(utility).index_add(0, group, utility)
    rows = torch.bincount(group, minlength=groups).to(utility).unsqueeze(-1)
    return torch.cat([(total + strength * overall) / (rows + strength), overall])
