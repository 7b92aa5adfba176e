"""A table of two models, each right where the other is wrong, and a queue router between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experts import OutcomeTable
from router_rl import QueueingProblem, export
from router_rl.methods.queueing.index_router import index_router, with_weights

__all__ = ["queue_router_of", "sums"]


def sums(
    sign: float = 1.0,
    latency_s: tuple[float, float] | None = None,
    words: tuple[str, str] = ("plus", "times"),
) -> OutcomeTable:
    """Return a table: `small` is right on the first word and `large` on the second, or the reverse."""
    rng = np.random.default_rng(0)
    plus = rng.integers(0, 2, 120)
    numbers = rng.integers(1, 99, (120, 2))
    word = np.where(plus == 1, *words)
    right = plus if sign > 0 else 1 - plus
    return OutcomeTable(
        experts=("small", "large"),
        query_id=np.array([f"q{row}" for row in range(120)], dtype=object),
        prompt=np.array(
            [f"What is {a} {w} {b}?" for (a, b), w in zip(numbers, word, strict=True)], dtype=object
        ),
        features=None,
        quality=np.stack([right, 1 - right], axis=1).astype(np.float32),
        cost=np.tile(np.float32([[1e-4, 2e-3]]), (120, 1)),
        cost_unit="usd",
        latency_s=None if latency_s is None else np.tile(np.float32([latency_s]), (120, 1)),
        split=np.array(["train"] * 70 + ["validation"] * 30 + ["test"] * 20, dtype=object),
        source="made by hand",
    )


def queue_router_of(problem: QueueingProblem, folder: Path, **weights: float) -> Path:
    """Export the fitted index of a queueing problem, with these weights."""
    router = problem.finish(with_weights(index_router(problem), weights))
    export(router, folder, rows=problem)
    return folder
