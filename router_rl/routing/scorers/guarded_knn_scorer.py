"""k nearest neighbours with a guard: the default expert, except where another is significantly better.

An expert's logit is the lower confidence bound of its gain over the default expert on the k nearest stored
queries; the default's logit is 0. So the default answers unless some gain is significantly above 0. The
variance of the k gains is moderated by one row of the overall variance, so that a few equal gains are not
taken for certainty (Smyth 2004, eq. 4, https://doi.org/10.2202/1544-6115.1027).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..router_error import RouterError
from .knn_scorer import KNNScorer

__all__ = ["GuardedKNNScorer"]

_BELOW = 1e-6  # how far a gain that is not above 0 scores below the default, so that ties keep the default


class GuardedKNNScorer(KNNScorer):
    """`z_e = mean gain - critical * standard error` over the k nearest stored queries; 0 for the default.

    The stored values are gains over the default expert, whose own gains are 0.

    Args:
        inputs: D.
        experts: N.
        rows: R, stored queries.
        neighbours: k, 1 to R.
        metric: `euclidean` or `cosine`.
        default: id of the expert that answers unless another is significantly better.
        critical: standard errors that a gain must exceed, at least 0.

    Raises:
        RouterError: a number is outside its range, or the metric is unknown.
    """

    kind: ClassVar[str] = "guarded_knn"
    variance: Tensor

    def __init__(
        self,
        inputs: int,
        experts: int,
        rows: int,
        neighbours: int,
        metric: str = "euclidean",
        default: int = 0,
        critical: float = 0.0,
    ) -> None:
        super().__init__(inputs, experts, rows, neighbours, metric)
        if default not in range(experts):
            raise RouterError(
                f"GuardedKNNScorer.default={default!r} is not an expert; use 0 to {experts - 1}"
            )
        if not critical >= 0.0:
            raise RouterError(f"GuardedKNNScorer.critical={critical} is below 0; use 0 or more")
        self.default = default
        self.critical = critical
        self.register_buffer("variance", torch.zeros(experts))

    def store(self, features: Tensor, values: Tensor) -> None:
        """Store queries with each expert's gain over the default.

        Args:
            features: [R, D] float, raw.
            values: [R, N] float, utility of each expert.
        """
        gain = values - values[:, self.default : self.default + 1]
        super().store(features, gain)
        with torch.no_grad():
            self.variance.copy_(gain.double().var(dim=0, correction=0))

    def pooled(self, distance: Tensor, placed: Tensor, rows: int) -> Tensor:
        """Lower confidence bound of each expert's gain over the default."""
        gain = self.values_of_nearest(distance, rows)
        count = gain.shape[1]
        mean = gain.mean(dim=1)
        squares = (gain - mean.unsqueeze(1)).square().sum(dim=1)
        error = ((squares + self.variance) / count / count).sqrt()  # k - 1 degrees of freedom and one more
        bound = mean - self.critical * error
        bound = torch.where(bound > 0.0, bound, bound - _BELOW)
        own = torch.arange(self.experts, device=bound.device) == self.default
        return torch.where(own, 0.0, bound)

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {**super().spec(), "default": self.default, "critical": self.critical}
