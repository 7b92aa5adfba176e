"""Initial responsibilities of EM, for its first M-step.

Equal experts and gates stay equal, so the start must distinguish rows. EM converges to a local maximum near
it. These functions use neither labels nor conditions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["kmeans_responsibilities", "random_responsibilities"]


def random_responsibilities(rows: int, experts: int, generator: torch.Generator) -> Tensor:
    """Return a random assignment of rows to experts, with group sizes that differ by at most 1.

    Args:
        rows: T.
        experts: N.
        generator: of the assignment.

    Returns:
        [T, N] float64, one-hot.

    >>> random_responsibilities(7, 3, torch.Generator().manual_seed(0)).sum(dim=0).sort().values
    tensor([2., 2., 3.], dtype=torch.float64)
    """
    order = torch.randperm(rows, generator=generator)
    return functional.one_hot(order % experts, experts).double()


def kmeans_responsibilities(x: Tensor, experts: int, seed: int) -> Tensor:
    """Return an assignment of rows to experts by k-means clusters.

    Args:
        x: [T, D] float64.
        experts: N, the number of clusters.
        seed: of k-means.

    Returns:
        [T, N] float64, one-hot.

    >>> x = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    >>> kmeans_responsibilities(x, 2, seed=0).sum(dim=0)
    tensor([2., 2.], dtype=torch.float64)
    """
    from sklearn.cluster import KMeans  # scikit-learn takes a second to import

    means: Any = KMeans
    labels = means(experts, n_init=10, random_state=seed).fit_predict(x.numpy())
    return functional.one_hot(torch.as_tensor(labels, dtype=torch.int64), experts).double()
