"""Evaluate token-level routers on held-out text: losses and expert shares."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experts.moe.sequences import Sequences
from experts.moe.tail import Tail

from ..load import load_cv

__all__ = ["Measured", "flips", "measure"]

Choose = Callable[[int, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """Result of one forward pass over sequences.

    Attributes:
        loss: [S, T] float32, nats per token.
        experts: [L, S, T, k] int16, selected experts; N means no expert.
        seconds: duration.
        total: N, number of experts.
    """

    loss: np.ndarray
    experts: np.ndarray
    seconds: float
    total: int

    @property
    def tokens_per_second(self) -> float:
        """Throughput of the forward pass, in tokens per second."""
        return self.loss.size / self.seconds

    @property
    def compute(self) -> float:
        """Mean number of experts per token and layer: 1 for top-1."""
        return float(self.runs().mean())

    def shares(self) -> np.ndarray:
        """Return each expert's share of the selections in each layer, [L, N]."""
        counts = np.stack([(self.experts == e).sum(axis=(1, 2, 3)) for e in range(self.total)], axis=1)
        return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def load_cvs(self, placement: np.ndarray | None = None) -> list[float]:
        """Return the coefficient of variation of the experts' shares in each layer.

        Args:
            placement: [N] int, device of each expert, numbered from 0; if given, the shares are those of
                devices.
        """
        shares = self.shares()
        if placement is not None:
            shares = np.stack([shares[:, placement == d].sum(axis=1) for d in range(placement.max() + 1)], 1)
        return [float(load_cv(share)) for share in shares]

    def load_cv(self, placement: np.ndarray | None = None) -> float:
        """Return the mean of `load_cvs` over the layers."""
        return float(np.mean(self.load_cvs(placement)))

    def runs(self) -> np.ndarray:
        """Return the mean number of experts per token and layer in each sequence, [S] float64."""
        return (self.experts < self.total).sum(axis=-1).mean(axis=(0, 2))

    def sequence_shares(self) -> np.ndarray:
        """Return each expert's share of the selections in each sequence, [S, N] float32; rows sum to 1."""
        counts = np.stack([(self.experts == e).sum(axis=(0, 2, 3)) for e in range(self.total)], axis=1)
        return (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(np.float32)

    def tiles(self, batch: int, tile: int = 128) -> float:
        """Return the ratio of used to minimum tiles, averaged over layers and batches.

        Sequences are shuffled (seed 0), because they are ordered by domain.

        Args:
            batch: sequences per batch.
            tile: rows per tile.
        """
        ratios: list[float] = []
        order = np.random.default_rng(0).permutation(self.loss.shape[0])
        for first in range(0, len(order) - batch + 1, batch):
            part = self.experts[:, order[first : first + batch]].reshape(len(self.experts), -1)
            counts = np.stack([(part == e).sum(axis=1) for e in range(self.total)], axis=1)
            ratios += list((-(-counts // tile)).sum(axis=1) / -(-counts.sum(axis=1) // tile))
        return float(np.mean(ratios))

    def recovery(self, domain: np.ndarray) -> float:
        """Return the share of tokens and layers whose first expert is that of the token's domain [S, T]."""
        return float((self.experts[..., 0] == domain).mean())


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
    start = time.perf_counter()
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
        seconds=time.perf_counter() - start,
        total=tail.experts,
    )


def flips(
    tail: Tail,
    sequences: Sequences,
    choose: Choose,
    disturb: Callable[[Tensor], Tensor],
    batch: int = 16,
) -> float:
    """Return the share of first choices that change if the gate's input is perturbed.

    Args:
        tail: the layers with experts.
        sequences: S sequences of T tokens.
        choose: maps layer and gate inputs to experts and weights.
        disturb: perturbs gate inputs; the hidden states follow the unperturbed choices.
        batch: sequences per forward pass.
    """
    changed = total = 0
    with torch.no_grad():
        for rows in torch.arange(len(sequences)).split(batch):
            hidden = sequences.states(rows)
            for layer in range(tail.depth):
                hidden, x = tail.attend(layer, hidden)
                experts, weights = choose(layer, x)
                other, _ = choose(layer, disturb(x))
                changed += int((experts[..., 0] != other[..., 0]).sum())
                total += other[..., 0].numel()
                hidden = hidden + tail.mix(layer, x, experts, weights)
    return changed / total
