"""The data of the caching environment: outcomes, the rows of each topic, and the memories."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experts import InputError, OutcomeTable

from .caching_config import CachingConfig
from .outcomes import Outcomes
from .topics import Topics

__all__ = ["CachingTable"]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class CachingTable:
    """Outcomes, the rows of each topic, and the sizes of experts and memories.

    Attributes:
        outcomes: features, quality and compute.
        topics: the rows of each topic.
        size: [N] float32 bytes of each expert.
        gpu_bytes, host_bytes: sizes of the memories.
    """

    outcomes: Outcomes
    topics: Topics
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
        return cls(
            outcomes=outcomes,
            topics=Topics.of(table.group, len(table), device),
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
        first = self.topics.drawn(seed, drawn)
        return torch.where(drawn > 0, self.topics.following(seed, drawn, topic, persistence), first)
