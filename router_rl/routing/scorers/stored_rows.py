"""Base of the scorers that store their training rows: a score is a pooled value of the stored rows.

A router that stores R rows of D features and N values exports about `4 R (D + N)` bytes, and a decision costs
about `R D` multiply-adds. A stored row is in its own neighbourhood, so the logits of training rows are
optimistic. `leave_one_out` leaves each row's own value out.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from ..router_error import RouterError
from .scorer import StandardisingScorer

__all__ = ["StoredRowsScorer"]

_CHUNK = 1024  # rows of the leave-one-out logits at a time


class StoredRowsScorer(StandardisingScorer):
    """Pools the values of R stored rows by their distance to the query.

    Stored rows are parameters without a gradient, so that they are counted among the parameters.

    Args:
        inputs: D.
        experts: N, or as many values as the selection rule takes.
        rows: R, stored rows.
        places: C, numbers that a row is stored as; D if None.

    Raises:
        RouterError: there are no rows.
    """

    def __init__(self, inputs: int, experts: int, rows: int, places: int | None = None) -> None:
        super().__init__(inputs, experts)
        if rows < 1:
            raise RouterError(f"{type(self).__name__}.rows={rows} stores nothing; use 1 or more")
        self.rows = rows
        self.queries = nn.Parameter(
            torch.zeros(rows, inputs if places is None else places), requires_grad=False
        )
        self.values = nn.Parameter(torch.zeros(rows, experts), requires_grad=False)

    def store(self, features: Tensor, values: Tensor) -> None:
        """Store rows, standardised, with their values.

        Args:
            features: [R, D] float, raw, as the scorer is called with.
            values: [R, N] float, such as the utility of each expert.
        """
        with torch.no_grad():
            self.queries.copy_(self.placed(features))
            self.values.copy_(values)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D]; takes T x R numbers of memory."""
        placed = self.placed(x)
        return self.pooled(self._half_distances(placed), placed, self.rows)

    @torch.no_grad()
    def leave_one_out(self) -> Tensor:
        """Logits [R, N] float32 of the stored rows, each without its own value; zeros if there is one row."""
        if self.rows == 1:
            return torch.zeros_like(self.values)
        logits: list[Tensor] = []
        for first in range(0, self.rows, _CHUNK):
            placed = self.queries[first : first + _CHUNK]
            distance = self._half_distances(placed)
            own = torch.arange(len(placed), device=distance.device)
            distance[own, own + first] = float("inf")
            logits.append(self.pooled(distance, placed, self.rows - 1))
        return torch.cat(logits)

    @abstractmethod
    def placed(self, x: Tensor) -> Tensor:
        """The points [T, C] float32 that raw inputs [T, D] are compared as."""

    @abstractmethod
    def pooled(self, distance: Tensor, placed: Tensor, rows: int) -> Tensor:
        """Logits [T, N] float32 of queries.

        Args:
            distance: [T, R] float32, half the squared distance to each stored row, less half the squared
                length of the query; infinite for a row that is left out.
            placed: [T, C] float32, the queries.
            rows: stored rows with a finite distance.
        """

    def _half_distances(self, placed: Tensor) -> Tensor:
        # Less |x|^2 / 2, which is the same for every stored row.
        return 0.5 * self.queries.square().sum(dim=-1) - placed @ self.queries.T
