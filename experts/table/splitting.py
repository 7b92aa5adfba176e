"""Train, validation and test splits: seeded, by prompt, and independent of the order of rows.

A prompt that is empty, or white space, is missing: rows without a prompt are not duplicates of each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .missing_outcomes import complete_rows
from .sparse_split import split_complete_rows

__all__ = [
    "LEAKAGE",
    "SPLITS",
    "allow_leaks",
    "canonical",
    "complete_split",
    "find_leak",
    "leaking_rows",
    "split_by_key",
    "split_keys",
    "unleaked",
]

SPLITS = ("train", "validation", "tuning", "test")
LEAKAGE = "leakage allowed: "  # the note that disables the check; every output repeats it
_SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def canonical(text: object) -> str:
    """Return a prompt with single spaces for white space, as prompts are compared; empty if it is missing.

    Args:
        text: the prompt, None if it is missing.
    """
    return "" if text is None else " ".join(str(text).split())


def split_keys(prompts: Sequence[Any] | np.ndarray | None, ids: Sequence[Any] | np.ndarray) -> list[str]:
    """Return what decides the split of each row: its prompt, or its id if the prompt is missing.

    Args:
        prompts: [T] str, empty or None if a row has no prompt; None if no row has one.
        ids: [T] the id of each row.
    """
    shown = [""] * len(ids) if prompts is None else list(map(canonical, prompts))
    if not any(shown):
        return list(map(str, ids))
    return [key or f"\0{name}" for key, name in zip(shown, ids, strict=True)]


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
    keys = [canonical(key) for key in keys]
    ranked = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest())
    edges = np.rint(np.cumsum(list(shares.values())) * len(ranked)).astype(int)
    names = list(shares)
    assigned = {key: names[int(np.searchsorted(edges, i, side="right"))] for i, key in enumerate(ranked)}
    return np.array([assigned[key] for key in keys], dtype="U10")


def complete_split(columns: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return a table's columns with all three splits, and a note that says what was done.

    Where outcomes are missing, a row that lacks some is put in `train`.

    Args:
        columns: the fields of an OutcomeTable, with or without `split`.
        seed: of the split.

    Raises:
        InputError: too few rows have the outcome of every expert.
    """
    stored = columns.get("split")
    prompts, ids = columns.get("prompt"), columns["query_id"]
    has_prompt = [] if prompts is None else [bool(canonical(prompt)) for prompt in prompts]
    by = "prompt" if any(has_prompt) else "query_id"
    if any(has_prompt) and not all(has_prompt):
        by = "prompt (query_id where it is missing)"
    keys = np.asarray(split_keys(prompts, ids), dtype=object)
    complete = _complete(columns)
    if not complete.all():
        by += ", incomplete rows in train"
    present = set() if stored is None else {str(name) for name in stored}
    if stored is None:
        split = _split(keys, complete, seed)
        note = f"split: made here, 60/20/20 by {by}, seed {seed}"
    elif len(present) == 1 and present <= set(SPLITS):
        split = _split(keys, complete, seed)
        note = f"split: the table was all {present.pop()}; split again, 60/20/20 by {by}, seed {seed}"
    elif present == {"train", "test"}:
        split = np.array(stored, dtype="U10")
        train = np.flatnonzero(split == "train")
        split[train] = _split(keys[train], complete[train], seed, {"train": 0.75, "validation": 0.25})
        note = f"split: a quarter of train became validation, by {by}, seed {seed}"
    else:
        return columns
    return {**columns, "split": split, "notes": (*columns.get("notes", ()), note)}


def _complete(columns: Mapping[str, Any]) -> np.ndarray:
    """Return which rows have every outcome, [T] bool; all, if quality and cost are not missing together."""
    every = np.ones(len(columns["query_id"]), dtype=bool)
    quality, cost = (
        complete_rows(columns[name]) if name in columns else every for name in ("quality", "cost")
    )
    return quality if np.array_equal(quality, cost) else every


def _split(
    keys: np.ndarray, complete: np.ndarray, seed: int, shares: Mapping[str, float] = _SHARES
) -> np.ndarray:
    """Return a split for each key; where rows are incomplete, these are in `train`."""
    if complete.all():
        return split_by_key(map(str, keys), seed, shares)
    held_out = {name: share for name, share in shares.items() if name != "train"}
    return split_complete_rows([canonical(key) for key in keys], complete, seed, held_out)


def find_leak(prompts: Sequence[str] | np.ndarray, parts: np.ndarray) -> tuple[int, int] | None:
    """Return the first two rows with the same prompt (up to white space) in different parts, or None.

    Args:
        prompts: [T] str.
        parts: [T] the split or fold of each row.
    """
    first: dict[str, int] = {}
    for row, prompt in enumerate(prompts):
        key = canonical(prompt)
        earlier = first.setdefault(key, row) if key else row
        if parts[earlier] != parts[row]:
            return earlier, row
    return None


def leaking_rows(prompts: Sequence[Any] | np.ndarray, parts: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return the rows whose prompt (up to white space) occurs in several parts.

    Args:
        prompts: [T] str, empty or None if a row has no prompt.
        parts: [T] the split or fold of each row, None if it has none.

    Returns:
        [M] int64, row numbers.

    >>> leaking_rows(["a", "b", "a ", "c"], ["train", "train", "test", "test"]).tolist()
    [0, 2]
    """
    keys = list(map(canonical, prompts))
    several = _in_several(keys, parts)
    rows = [row for row, key in enumerate(keys) if key in several]
    return np.array(rows, dtype=np.int64)


def unleaked(columns: Mapping[str, Any]) -> np.ndarray:
    """Return the rows that are left when no prompt may occur in two splits or folds.

    Of rows with the same prompt those in the test split are kept, else those for tuning, else those for
    validation; of folds the first one.

    Args:
        columns: `prompt`, `split` and `fold` [T], each of which may be absent.

    Returns:
        [M] int64, row numbers in increasing order.

    >>> unleaked({"prompt": ["a", "b", "a "], "split": ["train", "train", "test"]}).tolist()
    [1, 2]
    """
    prompts, split, fold = (columns.get(name) for name in ("prompt", "split", "fold"))
    length = next((len(values) for values in columns.values()), 0)
    if prompts is None:
        return np.arange(length)
    keys = list(map(canonical, prompts))
    rows = list(range(length))
    for parts, ranks in ((split, SPLITS), (fold, ())):
        if parts is None:
            continue
        kept: dict[str, Any] = {}
        for row in rows:
            key, part = keys[row], parts[row]
            if key not in kept or (ranks and ranks.index(part) > ranks.index(kept[key])):
                kept[key] = part
        rows = [row for row in rows if not keys[row] or parts[row] == kept[keys[row]]]
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
            leaked = len(_in_several(list(map(canonical, prompt)), parts))
            notes.append(f"{LEAKAGE}{leaked} prompts occur in more than one {name}")
    return {**columns, "notes": (*columns.get("notes", ()), *notes)}


def _in_several(keys: Sequence[str], parts: Sequence[Any] | np.ndarray) -> set[str]:
    """Return the prompts that occur in several parts."""
    parts_of: dict[str, set[Any]] = {}
    for key, part in zip(keys, parts, strict=True):
        if key and part is not None:
            parts_of.setdefault(key, set()).add(part)
    return {key for key, places in parts_of.items() if len(places) > 1}
