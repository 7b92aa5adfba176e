"""The data of the caching environment: outcomes, the rows of each topic, and the memories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experts import InputError, OutcomeTable

from .caching_config import CachingConfig
from .outcomes import Outcomes
from .stream import query_rows

__all__ = ["CachingTable"]

_STAYS, _TOPICS = 1 << 40, 1 << 41  # offsets of a lane's further random streams from that of its queries
_PARTS = 1 << 20  # the resolution of a drawn probability


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class CachingTable:
    """Outcomes, the rows of each topic, and the sizes of experts and memories.

    Attributes:
        outcomes: features, quality and compute.
        rows: [T] int64, the rows by topic.
        first, count: [G] int64, where a topic's rows begin in `rows`, and their number.
        size: [N] float32 bytes of each expert.
        gpu_bytes, host_bytes: sizes of the memories.
    """

    outcomes: Outcomes
    rows: Tensor
    first: Tensor
    count: Tensor
    size: Tensor
    gpu_bytes: float
    host_bytes: float

    @classmethod
    def of(
        cls, table: OutcomeTable, scale: float, config: CachingConfig, device: torch.device | str = "cpu"
    ) -> CachingTable:
        """Move a table to a device; its groups are the topics (a table without groups has one topic).

        Args:
            table: the rows.
            scale: cost of one unit of compute.
            config: the sizes.
            device: where the tensors live.

        Raises:
            InputError: the table has no features, a size is missing, or an expert does not fit in GPU memory.
        """
        outcomes = Outcomes.of(table, scale, device)
        experts = outcomes.experts
        sizes = config.expert_bytes * experts if len(config.expert_bytes) == 1 else config.expert_bytes
        if len(sizes) != experts:
            fix = f"give one number, or {experts}"
            raise InputError("expert_bytes", list(sizes), f"there are {experts} experts", fix)
        # A little more than the share, so that a share of m equal experts holds m of them.
        gpu, host = ((share + 1e-6) * sum(sizes) for share in (config.gpu_share, config.host_share))
        if max(sizes) > gpu:
            problem = f"is {gpu:.4g} bytes, and an expert has {max(sizes):.4g}"
            raise InputError("gpu_share", config.gpu_share, problem, "use a larger share")
        group = np.zeros(len(table)) if table.group is None else table.group
        _, codes, count = np.unique(group, return_inverse=True, return_counts=True)
        rows = torch.from_numpy(np.argsort(codes.reshape(-1), kind="stable"))
        counts = torch.from_numpy(count)
        return cls(
            outcomes=outcomes,
            rows=rows.to(device),
            first=(counts.cumsum(0) - counts).to(device),
            count=counts.to(device),
            size=torch.tensor(sizes, dtype=torch.float32, device=device),
            gpu_bytes=float(gpu),
            host_bytes=float(host),
        )

    def next_topic(self, seed: Tensor, drawn: Tensor, topic: Tensor, persistence: float) -> Tensor:
        """The topic of the next request.

        Args:
            seed: [B] int64, the random streams.
            drawn: [B] int64, requests drawn before it; at 0 the topic is drawn uniformly.
            topic: [B] int64, the topic of the request before it.
            persistence: probability that the topic stays.

        Returns:
            [B] int64.
        """
        stays = query_rows(seed + _STAYS, drawn, _PARTS) < persistence * _PARTS
        other = query_rows(seed + _TOPICS, drawn, len(self.count))
        return torch.where(stays & (drawn > 0), topic, other)

    def row_of(self, seed: Tensor, drawn: Tensor, topic: Tensor) -> Tensor:
        """The query [B] int64 of the next request, drawn uniformly from its topic."""
        place = query_rows(seed, drawn, 1 << 62) % self.count[topic]
        return self.rows[self.first[topic] + place]
