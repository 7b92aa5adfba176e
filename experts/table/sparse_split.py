"""The split of a sparse table: validation and test rows have the outcome of every expert."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from ..io.errors import InputError

__all__ = ["LEAST_COMPLETE", "split_complete_rows"]

LEAST_COMPLETE = 20  # distinct prompts whose rows are complete: fewer cannot be both validation and test rows


def split_complete_rows(
    keys: Sequence[str], complete: np.ndarray, seed: int, shares: Mapping[str, float]
) -> np.ndarray:
    """Split rows by key, with incomplete rows in `train` only.

    The other splits get their shares of all keys, by the order of a hash of seed and key, if there are enough
    keys whose rows are all complete. Otherwise they share these keys in proportion.

    Args:
        keys: T strings; equal keys get the same split.
        complete: [T] bool, whether a row has the outcome of every expert.
        seed: of the hash.
        shares: fraction of the keys in each split but `train`.

    Returns:
        [T] str, names of splits.

    Raises:
        InputError: fewer than `LEAST_COMPLETE` keys have complete rows only.
    """
    incomplete = {key for key, whole in zip(keys, complete, strict=True) if not whole}
    distinct = set(keys)
    usable = sorted(distinct - incomplete, key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest())
    if len(usable) < LEAST_COMPLETE:
        problem = (
            f"{int(complete.sum()):,} of {len(keys):,} rows have the outcome of every expert; validation and "
            f"test rows need it, and there must be {LEAST_COMPLETE} or more (with distinct prompts)"
        )
        fix = "collect the missing outcomes of some queries, or import with --missing rows or experts"
        raise InputError("table", f"{len(keys)} rows", problem, fix)
    wanted = {name: share * len(distinct) for name, share in shares.items()}
    part = min(1.0, len(usable) / sum(wanted.values()))
    edges = np.floor(np.cumsum([count * part for count in wanted.values()]) + 1e-9).astype(int)
    assigned: dict[str, str] = {}
    for first, last, name in zip([0, *edges[:-1]], edges, wanted, strict=True):
        assigned |= dict.fromkeys(usable[first:last], name)
    return np.array([assigned.get(key, "train") for key in keys], dtype="U10")
