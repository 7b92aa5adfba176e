"""Evaluate token-level routers on held-out text: losses and expert shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experts.moe.sequences import Sequences
from experts.moe.tail import Tail

from ..load import load_cv

__all__ = ["Measured", "measure"]

Choose = Callable[[int, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """Result of one forward pass over sequences.

    Attributes:
        loss: [S, T] float32, nats per token.
        experts: [L, S, T, k] int16, selected experts; N means no expert.
        total: N, number of experts.
    """

    loss: np.ndarray
    experts: np.ndarray
    total: int

    @property
    def compute(self) -> float:
        """Mean number of experts per token and layer: 1 for top-1."""
        return float(self.runs().mean())

    def shares(self) -> np.ndarray:
        """Return each expert's share of the selections in each layer, [L, N]."""
        counts = np.stack([(self.experts == e).sum(axis=(1, 2, 3)) for e in range(self.total)], axis=1)
        return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def load_cv(self) -> float:
        """Return the coefficient of variation of the experts' shares, averaged over the layers."""
        return float(np.mean([load_cv(share) for share in self.shares()]))

    def runs(self) -> np.ndarray:
        """Return the mean number of experts per token and layer in each sequence, [S] float64."""
        return (self.experts < self.total).sum(axis=-1).mean(axis=(0, 2))

    def sequence_shares(self) -> np.ndarray:
        """Return each expert's share of the selections in each sequence, [S, N] float32; rows sum to 1."""
        counts = np.stack([(self.experts == e).sum(axis=(0, 2, 3)) for e in range(self.total)], axis=1)
        return (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(np.float32)


def measure(tail: Tail, sequences: Sequences, choose: Choose, batch: int = 16) -> Measured:
    """Evaluate a router greedily on all sequences.

    Args:
        tail: the layers with experts.
        sequences: S sequences of T tokens.
        choose: maps layer and gate inputs to experts and weights.
        batch: sequences per forward pass.
    """
    losses: list[Tensor] = []
    selected: list[Tensor] = []
    with torch.no_grad():
        for rows in torch.arange(len(sequences)).split(batch):
            layers: list[Tensor] = []

            def recorded(layer: int, x: Tensor, layers: list[Tensor] = layers) -> tuple[Tensor, Tensor]:
                experts, weights = choose(layer, x)
                layers.append(experts.to(torch.int16))
                return experts, weights

            hidden = tail(sequences.states(rows), recorded)
            losses.append(tail.loss(hidden, sequences.targets(rows)))
            selected.append(torch.stack(layers))
    return Measured(
        loss=torch.cat(losses).numpy(),
        experts=torch.cat(selected, dim=1).numpy(),
        total=tail.experts,
    )
