"""Generate the answers of a pool's problems through a router, and verify them by exact match."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experts.moe.decoding import Draw, generate, greedy
from experts.moe.sequences import Sequences
from experts.moe.token_pool import TokenPool

from ..load import load_cv
from .token_measurement import Choose

__all__ = ["Answered", "RouteOf", "answer", "answer_by_row", "prompts_of"]

RouteOf = Callable[[Tensor], Choose]
"""From the rows [B] int64 of some sequences to their router."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Answered:
    """The answers to S problems.

    Attributes:
        tokens: [S, A] int64, the generated answers.
        right: [S] float32, 1 where the verifier accepts the answer.
        counts: [S, N] int64, how often an expert ran for a sequence, over tokens and layers.
        passes: token passes of a sequence: (P + A - 1) L.
    """

    tokens: Tensor
    right: np.ndarray
    counts: np.ndarray
    passes: int

    @property
    def compute(self) -> np.ndarray:
        """Mean number of experts per token and layer in each sequence, [S] float64: 1 for top-1."""
        return self.counts.sum(axis=1) / self.passes

    @property
    def load_cv(self) -> float:
        """Coefficient of variation of the experts' shares of all passes."""
        return float(load_cv(self.counts.sum(axis=0) / self.counts.sum()))

    @property
    def share(self) -> np.ndarray:
        """Share of a sequence's passes that each expert received, [S, N] float32; rows sum to 1."""
        return (self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)).astype(np.float32)


def prompts_of(pool: TokenPool, sequences: Sequences, rows: Tensor) -> Tensor:
    """Return the prompts [B, P] int64 of some sequences.

    Args:
        pool: of problems.
        sequences: one of its parts.
        rows: [B] int64, sequence ids.
    """
    assert pool.problems is not None
    return torch.from_numpy(np.ascontiguousarray(sequences.tokens[rows.numpy(), : -pool.problems.answer]))


def answer(
    pool: TokenPool, sequences: Sequences, choose: Choose, draw: Draw = greedy, batch: int = 128
) -> Answered:
    """Generate and verify the answer of every sequence.

    Args:
        pool: of problems.
        sequences: one of its parts.
        choose: the router.
        draw: selects the next token.
        batch: sequences per forward pass.
    """
    return answer_by_row(pool, sequences, lambda rows: choose, draw, batch)


def answer_by_row(
    pool: TokenPool, sequences: Sequences, route: RouteOf, draw: Draw = greedy, batch: int = 128
) -> Answered:
    """Generate and verify the answer of every sequence, with a router that depends on the sequence.

    Args:
        pool: of problems.
        sequences: one of its parts.
        route: maps rows [B] int64 to their router.
        draw: selects the next token.
        batch: sequences per forward pass.
    """
    assert pool.problems is not None
    total = pool.tail.experts
    tokens: list[Tensor] = []
    right: list[Tensor] = []
    counts: list[Tensor] = []
    for rows in torch.arange(len(sequences)).split(batch):
        own, count = route(rows), torch.zeros(len(rows), total + 1, dtype=torch.int64)

        def counted(
            layer: int, x: Tensor, choose: Choose = own, count: Tensor = count
        ) -> tuple[Tensor, Tensor]:
            experts, weights = choose(layer, x)
            flat = experts.flatten(1)
            count.scatter_add_(1, flat, torch.ones_like(flat))
            return experts, weights

        prompts = prompts_of(pool, sequences, rows)
        made = generate(pool.base, pool.tail, prompts, pool.problems.answer, counted, draw)
        tokens.append(made)
        right.append(pool.problems.verify(prompts, made))
        counts.append(count[:, :total])
    return Answered(
        tokens=torch.cat(tokens),
        right=torch.cat(right).numpy(),
        counts=torch.cat(counts).numpy(),
        passes=(sequences.tokens.shape[1] - 1) * pool.tail.depth,
    )
