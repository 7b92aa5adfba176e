"""Learned factors on the expected times of language model servers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["QUANTITIES", "LatencyCorrection"]

QUANTITIES = 8
_MOST = 4.0  # factors lie between exp(-4) and exp(4)


class LatencyCorrection(nn.Module):
    """A small network that corrects two expected times of a server: to the first token, and from there on.

    The network is shared by the servers, and is told which one it sees. Untrained, it corrects nothing.

    Args:
        experts: N.
        hidden: width of its two hidden layers.
    """

    own: Tensor

    def __init__(self, experts: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("own", torch.eye(experts), persistent=False)
        self.first = nn.Linear(experts + QUANTITIES, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, quantities: Tensor) -> Tensor:
        """Logarithms of the two factors, [T, N, 2], of quantities [T, N, 8] that are about 1 in size."""
        own = self.own.expand(*quantities.shape[:-1], -1)
        hidden = self.first(torch.cat([own, quantities], dim=-1)).relu()
        corrected: Tensor = self.last(self.second(hidden).relu())
        return corrected.clamp(-_MOST, _MOST)
