"""A synthetic outcome table of any size whose best router is known: one linear layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experts import OutcomeTable

__all__ = ["class_weights", "synthetic_table"]

_CHUNK = 65_536
_OWN, _OTHER = 0.9, 0.4  # an expert's accuracy on its own class of queries, and on the others


def synthetic_table(
    queries: int, experts: int, *, features: int = 64, seed: int = 0, folder: Path | None = None
) -> OutcomeTable:
    """An outcome table of queries of N classes, where a query x has the class `argmax_e W_e x`.

    Expert e is right with probability 0.9 on class e and 0.4 on every other. Costs rise linearly from 0.2 to
    1 per query. With a compute weight below 0.6 no router is better than the one that sends every query to
    the expert of its class. The first 80% of the rows are for training, 10% for validation, 10% for test.

    Args:
        queries: T.
        experts: N.
        features: D.
        seed: of everything random.
        folder: where the features are written to a memory-mapped file; None: they are kept in memory.
    """
    random = np.random.default_rng(seed)
    weight = class_weights(experts, features, seed)
    if folder is None:
        x = np.empty((queries, features), dtype=np.float32)
    else:
        path = folder / "features.npy"
        x = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(queries, features))
    quality = np.empty((queries, experts), dtype=np.float32)
    for first in range(0, queries, _CHUNK):
        rows = slice(first, min(first + _CHUNK, queries))
        x[rows] = random.standard_normal((rows.stop - first, features), dtype=np.float32)
        label = (x[rows] @ weight.T).argmax(axis=1)
        accuracy = np.where(np.arange(experts) == label[:, None], np.float32(_OWN), np.float32(_OTHER))
        quality[rows] = random.random(accuracy.shape, dtype=np.float32) < accuracy
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


def class_weights(experts: int, features: int, seed: int) -> np.ndarray:
    """W [N, D] float32 with rows of unit length, so that the classes are about equally common.

    Args:
        experts: N.
        features: D.
        seed: the table's.
    """
    weight = np.random.default_rng([seed, 1]).standard_normal((experts, features), dtype=np.float32)
    return weight / np.linalg.norm(weight, axis=1, keepdims=True)
