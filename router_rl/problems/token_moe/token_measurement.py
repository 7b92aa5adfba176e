"""What a router does to held-out text: losses, and who did the work."""

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
    """One walk over some sequences.

    Attributes:
        loss: [S, T] float32, nats a token.
        experts: [L, S, T, k] int16, who was chosen; N is nobody.
        seconds: of the walk.
        total: N.
    """

    loss: np.ndarray
    experts: np.ndarray
    seconds: float
    total: int

    @property
    def tokens_per_second(self) -> float:
        """Of the walk, on the machine as it was."""
        return self.loss.size / self.seconds

    @property
    def compute(self) -> float:
        """Experts run a token and layer, on average: 1 for top-1."""
        return float(self.runs().mean())

    def shares(self) -> np.ndarray:
        """Share of each layer's work that each expert did, [L, N]."""
        counts = np.stack([(self.experts == e).sum(axis=(1, 2, 3)) for e in range(self.total)], axis=1)
        return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def load_cvs(self, placement: np.ndarray | None = None) -> list[float]:
        """Coefficient of variation of the experts' shares in each layer.

        Args:
            placement: [N] int, the device of each expert, numbered from 0: of the devices' shares then.
        """
        shares = self.shares()
        if placement is not None:
            shares = np.stack([shares[:, placement == d].sum(axis=1) for d in range(placement.max() + 1)], 1)
        return [float(load_cv(share)) for share in shares]

    def load_cv(self, placement: np.ndarray | None = None) -> float:
        """Their mean over the layers."""
        return float(np.mean(self.load_cvs(placement)))

    def runs(self) -> np.ndarray:
        """Experts run a token and layer in each sequence, [S] float64."""
        return (self.experts < self.total).sum(axis=-1).mean(axis=(0, 2))

    def sequence_shares(self) -> np.ndarray:
        """Share of each sequence's runs that each expert did, [S, N] float32; rows sum to 1."""
        counts = np.stack([(self.experts == e).sum(axis=(0, 2, 3)) for e in range(self.total)], axis=1)
        return (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(np.float32)

    def tiles(self, batch: int, tile: int = 128) -> float:
        """Tiles over the fewest there could be, mean over layers and batches of `batch` sequences.

        The batches are drawn (seed 0), since the sequences of a part stand in the order of their domains.
        """
        ratios: list[float] = []
        order = np.random.default_rng(0).permutation(self.loss.shape[0])
        for first in range(0, len(order) - batch + 1, batch):
            part = self.experts[:, order[first : first + batch]].reshape(len(self.experts), -1)
            counts = np.stack([(part == e).sum(axis=1) for e in range(self.total)], axis=1)
            ratios += list((-(-counts // tile)).sum(axis=1) / -(-counts.sum(axis=1) // tile))
        return float(np.mean(ratios))

    def recovery(self, domain: np.ndarray) -> float:
        """Share of tokens and layers whose first expert is the one of the token's domain [S, T]."""
        return float((self.experts[..., 0] == domain).mean())


def measure(tail: Tail, sequences: Sequences, choose: Choose, batch: int = 16) -> Measured:
    """Walk over every sequence greedily."""
    losses: list[Tensor] = []
    chosen: list[Tensor] = []
    start = time.perf_counter()
    with torch.no_grad():
        for rows in torch.arange(len(sequences)).split(batch):
            seen: list[Tensor] = []

            def watched(layer: int, x: Tensor, seen: list[Tensor] = seen) -> tuple[Tensor, Tensor]:
                experts, weights = choose(layer, x)
                seen.append(experts.to(torch.int16))
                return experts, weights

            hidden = tail(sequences.states(rows), watched)
            losses.append(tail.loss(hidden, sequences.targets(rows)))
            chosen.append(torch.stack(seen))
    return Measured(
        loss=torch.cat(losses).numpy(),
        experts=torch.cat(chosen, dim=1).numpy(),
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
    """Share of first choices that change when the gate's input is disturbed, along the undisturbed walk."""
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
