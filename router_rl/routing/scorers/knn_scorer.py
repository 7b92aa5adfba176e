"""The k-nearest-neighbours scorer: the mean of the values of the nearest stored queries.

Source: Cover and Hart 1967, https://doi.org/10.1109/TIT.1967.1053964; as a router, Li 2025,
    https://arxiv.org/abs/2505.12601.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ..router_error import RouterError
from .stored_rows import StoredRowsScorer

__all__ = ["KNNScorer"]

_METRICS = ("euclidean", "cosine")


class KNNScorer(StoredRowsScorer):
    """`z = mean of values over the k stored queries nearest to (x - shift) * scale`.

    Where several stored queries are equally far and not all fit among the k, `torch.topk` decides.

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
        super().__init__(inputs, experts, rows)
        name = type(self).__name__
        if metric not in _METRICS:
            raise RouterError(f"{name}.metric={metric!r} is unknown; use {' or '.join(_METRICS)}")
        if not 1 <= neighbours <= rows:
            raise RouterError(f"{name}.neighbours={neighbours} does not fit {rows} rows; use 1 to {rows}")
        self.neighbours = neighbours
        self.metric = metric

    def placed(self, x: Tensor) -> Tensor:
        """The points [T, D] float32 that raw inputs [T, D] are compared as."""
        x = (x.float() - self.shift) * self.scale
        if self.metric == "cosine":
            x = x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return x

    def pooled(self, distance: Tensor, placed: Tensor, rows: int) -> Tensor:
        """Mean value of the k nearest rows, or of all rows if there are fewer."""
        return self.values_of_nearest(distance, rows).mean(dim=1)

    def values_of_nearest(self, distance: Tensor, rows: int) -> Tensor:
        """Values [T, k, N] of the k nearest rows.

        Args:
            distance: [T, R] float32; only the order of the rows is read.
            rows: stored rows with a finite distance; k is at most that.
        """
        nearest = distance.topk(min(self.neighbours, rows), dim=-1, largest=False).indices
        return self.values[nearest]

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
