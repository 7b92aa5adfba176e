"""Generate the answers of a pool's problems through a router, and verify them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experts.moe.decoding import Draw, generate, greedy
from experts.moe.padding import Prompts, routed_tokens
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
        right: [S] float32, what the verifier gives: 1 for a right answer.
        counts: [S, N] int64, how often an expert ran for a sequence, over tokens and layers.
        passes: [S] int64, token passes of a sequence: (P + A - 1) L.
    """

    tokens: Tensor
    right: np.ndarray
    counts: np.ndarray
    passes: np.ndarray

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


def prompts_of(pool: TokenPool, sequences: Sequences, rows: Tensor) -> Prompts:
    """Return the prompts of some sequences; shorter ones have padding in front.

    Args:
        pool: of problems.
        sequences: one of its parts.
        rows: [B] int64, sequence ids.
    """
    assert pool.problems is not None
    if sequences.prompt is None:
        every = sequences.tokens[rows.numpy(), : -pool.problems.answer]
        return Prompts(torch.from_numpy(np.ascontiguousarray(every)))
    lengths = sequences.prompt[rows.numpy()]
    longest = int(lengths.max(initial=0))
    tokens = np.full((len(lengths), longest), pool.problems.pad, dtype=np.int64)
    for place, (row, length) in enumerate(zip(rows.tolist(), lengths, strict=True)):
        tokens[place, longest - length :] = sequences.tokens[row, :length]
    padding = torch.from_numpy(longest - lengths)
    return Prompts(torch.from_numpy(tokens), padding if bool(padding.any()) else None)


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
    problems, total, depth = pool.problems, pool.tail.experts, pool.tail.depth
    tokens: list[Tensor] = []
    right: list[Tensor] = []
    counts: list[Tensor] = []
    passes: list[Tensor] = []
    for rows in torch.arange(len(sequences)).split(batch):
        own, chosen = route(rows), [[] for _ in range(depth)]

        def recorded(
            layer: int, x: Tensor, choose: Choose = own, chosen: list[list[Tensor]] = chosen
        ) -> tuple[Tensor, Tensor]:
            experts, weights = choose(layer, x)
            chosen[layer].append(experts)
            return experts, weights

        prompts = prompts_of(pool, sequences, rows)
        made = generate(pool.base, pool.tail, prompts, problems.answer, recorded, draw, problems.end)
        experts = torch.stack([torch.cat(each, dim=1) for each in chosen], dim=1)  # [B, L, T, k]
        real = routed_tokens(prompts, made, problems.end, experts.shape[2])
        if real is None:
            real = torch.ones(experts.shape[0], experts.shape[2], dtype=torch.bool)
        experts = torch.where(real[:, None, :, None], experts, total).flatten(1)
        count = torch.zeros(len(rows), total + 1, dtype=torch.int64)
        tokens.append(made)
        right.append(problems.verify(prompts.tokens, made))
        counts.append(count.scatter_add(1, experts, torch.ones_like(experts))[:, :total])
        passes.append(real.sum(dim=1) * depth)
    return Answered(
        tokens=torch.cat(tokens),
        right=torch.cat(right).numpy(),
        counts=torch.cat(counts).numpy(),
        passes=torch.cat(passes).numpy(),
    )
