"""Where EM starts: the responsibilities of the first M-step.

Experts and gates that are all alike stay alike, so a start has to tell rows apart; EM ends at a maximum near
it. None of these looks at a label or a condition.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["kmeans_responsibilities", "random_responsibilities"]


def random_responsibilities(rows: int, experts: int, generator: torch.Generator) -> Tensor:
    """Every row wholly to a random expert, as evenly as their numbers allow; [T, N] float64.

    >>> random_responsibilities(7, 3, torch.Generator().manual_seed(0)).sum(dim=0).sort().values
    tensor([2., 2., 3.], dtype=torch.float64)
    """
    order = torch.randperm(rows, generator=generator)
    return functional.one_hot(order % experts, experts).double()


def kmeans_responsibilities(x: Tensor, experts: int, seed: int) -> Tensor:
    """Every row of x [T, D] wholly to the expert of its cluster; [T, N] float64.

    >>> x = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    >>> kmeans_responsibilities(x, 2, seed=0).sum(dim=0)
    tensor([2., 2.], dtype=torch.float64)
    """
    from sklearn.cluster import KMeans  # scikit-learn takes a second to import

    means: Any = KMeans
    labels = means(experts, n_init=10, random_state=seed).fit_predict(x.numpy())
    return functional.one_hot(torch.as_tensor(labels, dtype=torch.int64), experts).double()
