"""Train, validation and test splits: seeded, by prompt, and independent of the order of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "LEAKAGE",
    "SPLITS",
    "allow_leaks",
    "complete_split",
    "find_leak",
    "leaking_rows",
    "split_by_key",
]

SPLITS = ("train", "validation", "tuning", "test")
LEAKAGE = "leakage allowed: "  # the note that disables the check; every output repeats it
_SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def split_by_key(keys: Iterable[str], seed: int, shares: Mapping[str, float] = _SHARES) -> np.ndarray:
    """Return a split for each key, with exact fractions, by the order of a hash of seed and key.

    Args:
        keys: T strings; equal keys (up to white space) get the same split.
        seed: of the hash.
        shares: split name to fraction of the distinct keys; fractions sum to 1.

    Returns:
        [T] str, names of splits.

    >>> split_by_key(["b", "a", "c", "b", "d", "e"], seed=0).tolist()
    ['test', 'validation', 'train', 'test', 'train', 'train']
    """
    keys = [_canonical(key) for key in keys]
    ranked = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest())
    edges = np.rint(np.cumsum(list(shares.values())) * len(ranked)).astype(int)
    names = list(shares)
    assigned = {key: names[int(np.searchsorted(edges, i, side="right"))] for i, key in enumerate(ranked)}
    return np.array([assigned[key] for key in keys], dtype="U10")


def complete_split(columns: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return a table's columns with all three splits, and a note that says what was done.

    Args:
        columns: the fields of an OutcomeTable, with or without `split`.
        seed: of the split.
    """
    stored = columns.get("split")
    by = "prompt" if columns.get("prompt") is not None else "query_id"
    keys = np.asarray(columns[by], dtype=object)
    present = set() if stored is None else {str(name) for name in stored}
    if stored is None:
        split = split_by_key(map(str, keys), seed)
        note = f"split: made here, 60/20/20 by {by}, seed {seed}"
    elif len(present) == 1 and present <= set(SPLITS):
        split = split_by_key(map(str, keys), seed)
        note = f"split: the table was all {present.pop()}; split again, 60/20/20 by {by}, seed {seed}"
    elif present == {"train", "test"}:
        split = np.array(stored, dtype="U10")
        train = np.flatnonzero(split == "train")
        split[train] = split_by_key(map(str, keys[train]), seed, {"train": 0.75, "validation": 0.25})
        note = f"split: a quarter of train became validation, by {by}, seed {seed}"
    else:
        return columns
    return {**columns, "split": split, "notes": (*columns.get("notes", ()), note)}


def find_leak(prompts: Sequence[str] | np.ndarray, parts: np.ndarray) -> tuple[int, int] | None:
    """Return the first two rows with the same prompt (up to white space) in different parts, or None.

    Args:
        prompts: [T] str.
        parts: [T] the split or fold of each row.
    """
    first: dict[str, int] = {}
    for row, prompt in enumerate(prompts):
        earlier = first.setdefault(_canonical(prompt), row)
        if parts[earlier] != parts[row]:
            return earlier, row
    return None


def leaking_rows(prompts: Sequence[Any] | np.ndarray, parts: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return the rows whose prompt (up to white space) occurs in several parts.

    Args:
        prompts: [T] str, None if a row has no prompt.
        parts: [T] the split or fold of each row, None if it has none.

    Returns:
        [M] int64, row numbers.

    >>> leaking_rows(["a", "b", "a ", "c"], ["train", "train", "test", "test"]).tolist()
    [0, 2]
    """
    parts_of: dict[str, set[Any]] = {}
    pairs = [
        (_canonical(prompt), part)
        for prompt, part in zip(prompts, parts, strict=True)
        if prompt is not None and part is not None
    ]
    for prompt, part in pairs:
        parts_of.setdefault(prompt, set()).add(part)
    several = {prompt for prompt, places in parts_of.items() if len(places) > 1}
    rows = [row for row, prompt in enumerate(prompts) if prompt is not None and _canonical(prompt) in several]
    return np.array(rows, dtype=np.int64)


def allow_leaks(columns: dict[str, Any]) -> dict[str, Any]:
    """Return a table's columns with a note on each leak of prompts; the notes disable the leakage check.

    Args:
        columns: the fields of an OutcomeTable.
    """
    prompt = columns.get("prompt")
    notes: list[str] = []
    for name in ("split", "fold"):
        parts = columns.get(name)
        if prompt is not None and parts is not None and find_leak(prompt, parts) is not None:
            leaked = _count_leaked(prompt, parts)
            notes.append(f"{LEAKAGE}{leaked} prompts occur in more than one {name}")
    return {**columns, "notes": (*columns.get("notes", ()), *notes)}


def _count_leaked(prompts: Sequence[str] | np.ndarray, parts: np.ndarray) -> int:
    parts_of: dict[str, set[Any]] = {}
    for prompt, part in zip(prompts, parts, strict=True):
        parts_of.setdefault(_canonical(prompt), set()).add(part)
    return sum(len(places) > 1 for places in parts_of.values())


def _canonical(text: object) -> str:
    return " ".join(str(text).split())
