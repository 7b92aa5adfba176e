"""Topics of the rows of a table, and a lane's random stream of topics and rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .stream import query_rows

__all__ = ["Topics"]

_STAYS, _TOPICS = 1 << 40, 1 << 41  # offsets of a lane's further random streams from that of its queries
_PARTS = 1 << 20  # the resolution of a drawn probability


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Topics:
    """The rows of each topic.

    Attributes:
        rows: [T] int64, the rows by topic.
        first, count: [G] int64, where a topic's rows begin in `rows`, and their number.
    """

    rows: Tensor
    first: Tensor
    count: Tensor

    @classmethod
    def of(cls, group: np.ndarray | None, rows: int, device: torch.device | str = "cpu") -> Topics:
        """Return the topics of a table's groups; a table without groups has one topic.

        Args:
            group: [T] of each row, or None.
            rows: T.
            device: where the tensors live.
        """
        names = np.zeros(rows) if group is None else group
        _, codes, count = np.unique(names, return_inverse=True, return_counts=True)
        counts = torch.from_numpy(count)
        return cls(
            rows=torch.from_numpy(np.argsort(codes.reshape(-1), kind="stable")).to(device),
            first=(counts.cumsum(0) - counts).to(device),
            count=counts.to(device),
        )

    def drawn(self, seed: Tensor, drawn: Tensor) -> Tensor:
        """A topic [B] int64, drawn uniformly: a function of the random streams and of their counters [B]."""
        return query_rows(seed + _TOPICS, drawn, len(self.count))

    def following(self, seed: Tensor, drawn: Tensor, topic: Tensor, persistence: float) -> Tensor:
        """The topic [B] int64 of the next request.

        Args:
            seed: [B] int64, the random streams.
            drawn: [B] int64, their counters.
            topic: [B] int64, the topic of the request before it.
            persistence: probability that the topic stays; otherwise it is drawn uniformly.
        """
        stays = query_rows(seed + _STAYS, drawn, _PARTS) < persistence * _PARTS
        return torch.where(stays, topic, self.drawn(seed, drawn))

    def row_of(self, seed: Tensor, drawn: Tensor, topic: Tensor) -> Tensor:
        """The query [B] int64 of a request, drawn uniformly from its topic."""
        place = query_rows(seed, drawn, 1 << 62) % self.count[topic]
        return self.rows[self.first[topic] + place]

    def means(self, values: Tensor) -> Tensor:
        """Return the mean over its topic at each row, [T, N], of values [T, N] float32."""
        each = torch.stack([part.mean(dim=0) for part in values[self.rows].split(self.count.tolist())])
        by_row = torch.empty_like(values)
        by_row[self.rows] = each.repeat_interleave(self.count, dim=0)
        return by_row
