"""A made table of any size whose best router is known: one linear layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from experts import OutcomeTable

from ..routing import Hard, LinearScorer, Router

__all__ = ["best_router", "synthetic_table"]

_CHUNK = 65_536
_OWN, _OTHER = 0.9, 0.4  # how often an expert is right on its own kind of query, and on the others


def synthetic_table(
    queries: int, experts: int, *, features: int = 64, seed: int = 0, folder: Path | None = None
) -> OutcomeTable:
    """Queries of N kinds, `argmax_e W_e x`; expert e is right on kind e nine times in ten, else four.

    Costs rise in a line from 0.2 to 1 a query, so with a compute weight below 0.6 nothing beats sending
    every query to its own expert. The first 8 of 10 rows are for training, then validation, then test.

    Args:
        queries: T.
        experts: N.
        features: D.
        seed: of everything drawn.
        folder: where the features are kept as a memory-mapped file; None: in memory.
    """
    random = np.random.default_rng(seed)
    weight = _weight(experts, features, seed)
    if folder is None:
        x = np.empty((queries, features), dtype=np.float32)
    else:
        path = folder / "features.npy"
        x = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(queries, features))
    quality = np.empty((queries, experts), dtype=np.float32)
    for first in range(0, queries, _CHUNK):
        rows = slice(first, min(first + _CHUNK, queries))
        x[rows] = random.standard_normal((rows.stop - first, features), dtype=np.float32)
        kind = (x[rows] @ weight.T).argmax(axis=1)
        chance = np.where(np.arange(experts) == kind[:, None], np.float32(_OWN), np.float32(_OTHER))
        quality[rows] = random.random(chance.shape, dtype=np.float32) < chance
    if isinstance(x, np.memmap):
        x.flush()
        x = np.load(folder / "features.npy", mmap_mode="r") if folder else x
    train, validation = queries * 8 // 10, queries // 10
    split = np.repeat(["train", "validation", "test"], [train, validation, queries - train - validation])
    return OutcomeTable(
        experts=tuple(f"expert{e}" for e in range(experts)),
        query_id=np.arange(queries),
        features=x,
        quality=quality,
        cost=np.broadcast_to(np.linspace(0.2, 1.0, experts, dtype=np.float32), quality.shape),
        split=split,
        cost_unit="unknown",
        source=f"synthetic {queries} x {experts}",
    )


def best_router(table: OutcomeTable, seed: int = 0) -> Router:
    """The router that sends every query of a `synthetic_table` to its own expert."""
    assert table.features is not None
    count, inputs = len(table.experts), table.features.shape[1]
    scorer = LinearScorer(inputs, count)
    with torch.no_grad():
        scorer.weight.copy_(torch.from_numpy(_weight(count, inputs, seed)))
    return Router(scorer, Hard(), table.experts).eval()


def _weight(experts: int, features: int, seed: int) -> np.ndarray:
    """W [N, D] float32 with rows of length 1, so that no kind is much more common than another."""
    weight = np.random.default_rng([seed, 1]).standard_normal((experts, features), dtype=np.float32)
    return weight / np.linalg.norm(weight, axis=1, keepdims=True)
