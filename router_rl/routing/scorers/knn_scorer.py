"""The k-nearest-neighbours scorer: the mean of the values of the nearest stored queries.

It stores its training queries: an export takes about `4 * rows * (inputs + experts)` bytes, and a decision
about rows x inputs multiply-adds.

Source: Cover and Hart 1967, https://doi.org/10.1109/TIT.1967.1053964; as a router, Li 2025,
    https://arxiv.org/abs/2505.12601.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..router_error import RouterError
from .scorer import StandardisingScorer

__all__ = ["KNNScorer"]

_METRICS = ("euclidean", "cosine")


class KNNScorer(StandardisingScorer):
    """`z = mean of values over the k stored queries nearest to (x - shift) * scale`.

    Stored queries are parameters without a gradient, so that they are counted among the parameters. Where
    several stored queries are equally far and not all fit among the k, `torch.topk` decides.

    Args:
        inputs: D.
        experts: N (or as many values as the selection rule takes).
        rows: R, stored queries.
        neighbours: k, 1 to R.
        metric: `euclidean`, or `cosine`: the same between queries scaled to length 1.

    Raises:
        RouterError: the metric is unknown, or there are fewer stored queries than neighbours.
    """

    kind: ClassVar[str] = "knn"

    def __init__(
        self, inputs: int, experts: int, rows: int, neighbours: int, metric: str = "euclidean"
    ) -> None:
        super().__init__(inputs, experts)
        if metric not in _METRICS:
            raise RouterError(f"KNNScorer.metric={metric!r} is unknown; use {' or '.join(_METRICS)}")
        if not 1 <= neighbours <= rows:
            raise RouterError(f"KNNScorer.neighbours={neighbours} does not fit {rows} rows; use 1 to {rows}")
        self.rows = rows
        self.neighbours = neighbours
        self.metric = metric
        self.queries = nn.Parameter(torch.zeros(rows, inputs), requires_grad=False)
        self.values = nn.Parameter(torch.zeros(rows, experts), requires_grad=False)

    def store(self, features: Tensor, values: Tensor) -> None:
        """Store queries, standardised, with their values.

        Args:
            features: [R, D] float, raw, as the scorer is called with.
            values: [R, N] float, such as the utility of each expert.
        """
        with torch.no_grad():
            self.queries.copy_(self._placed(features))
            self.values.copy_(values)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D]; takes T x R numbers of memory."""
        # Half the squared distance, less |x|^2 / 2, which is the same for every stored query.
        distance = 0.5 * self.queries.square().sum(dim=-1) - self._placed(x) @ self.queries.T
        nearest = distance.topk(self.neighbours, dim=-1, largest=False).indices
        return self.values[nearest].mean(dim=1)

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {
            "kind": self.kind,
            "inputs": self.inputs,
            "experts": self.experts,
            "rows": self.rows,
            "neighbours": self.neighbours,
            "metric": self.metric,
        }

    def _placed(self, x: Tensor) -> Tensor:
        x = (x.float() - self.shift) * self.scale
        if self.metric == "cosine":
            x = x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return x
