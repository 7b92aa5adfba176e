"""Documents of several domains, and fixed-length token sequences made of them.

Documents are split, never sentences: no text of a document that an expert or a router was trained on is
measured on.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..io.errors import InputError

__all__ = ["PARTS", "mixed_sequences", "pack", "pure_and_mixed", "split_documents"]

PARTS = ("expert", "train", "validation", "test")  # who may learn from a document
_SHARES = (0.55, 0.2, 0.1, 0.15)


def split_documents(documents: Sequence[str], shares: Sequence[float] = _SHARES) -> dict[str, list[str]]:
    """Divide documents among the parts, by a hash of their text: copies of a document stay together.

    Args:
        documents: of one domain.
        shares: of each of `PARTS`; sum to 1.
    """
    bounds = np.cumsum(shares)
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    for document in dict.fromkeys(documents):
        place = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") / 2**64
        found[PARTS[min(int(np.searchsorted(bounds, place, side="right")), len(PARTS) - 1)]].append(document)
    return found


def pack(
    documents: Sequence[str],
    encode: Callable[[str], Sequence[int]],
    length: int,
    count: int,
    *,
    each: int = 2,
    seed: int = 0,
) -> np.ndarray:
    """Cut sequences of T + 1 tokens out of documents, in a seeded order.

    Args:
        documents: of one domain and part.
        encode: text to token ids.
        length: T.
        count: S, sequences wanted.
        each: sequences taken from one document at most, so that no document fills the sample.
        seed: of the order, and of where in a document a sequence begins.

    Returns:
        [S, T + 1] int64.

    Raises:
        InputError: the documents do not yield as many.
    """
    rng = np.random.default_rng(seed)
    rows: list[np.ndarray] = []
    for number in rng.permutation(len(documents)):
        if len(rows) >= count:
            break
        # Six characters a token are more than any text has here: the rest need not be encoded.
        text = documents[int(number)]
        start = int(rng.integers(0, max(1, len(text) - 6 * (length + 1) * each)))
        ids = np.asarray(encode(text[start : start + 6 * (length + 1) * each]), dtype=np.int64)
        whole = len(ids) // (length + 1)
        rows.extend(ids[: whole * (length + 1)].reshape(whole, length + 1)[:each])
    if len(rows) < count:
        problem = f"{len(documents)} documents gave {len(rows)} sequences of {length} tokens"
        raise InputError("sequences", count, problem, "ask for fewer or shorter ones")
    return np.stack(rows[:count])


def pure_and_mixed(
    rows: Mapping[int, np.ndarray], pure: int, mixed: int, segments: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of one domain each, and after them those that change it.

    Args:
        rows: domain -> [S, T + 1] int64; the first `pure` stand alone, mixed ones are cut from the rest.
        pure: sequences of each domain.
        mixed: sequences that change their domain.
        segments, seed: as `mixed_sequences` takes them.

    Returns:
        tokens [D * pure + mixed, T + 1] int64, and the domain of each token, of the same shape.
    """
    tokens = np.concatenate([row[:pure] for row in rows.values()])
    domain = np.repeat(np.repeat(list(rows), pure)[:, None], tokens.shape[1], axis=1)
    if not mixed:
        return tokens, domain
    more, changing = mixed_sequences({d: row[pure:] for d, row in rows.items()}, mixed, segments, seed)
    return np.concatenate([tokens, more]), np.concatenate([domain, changing])


def mixed_sequences(
    pools: Mapping[int, np.ndarray], count: int, segments: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences that change their domain, as a conversation does: equal segments of different domains.

    Args:
        pools: domain -> [S, T + 1] int64, sequences to cut from.
        count: sequences wanted.
        segments: in each; T + 1 need not be a multiple, the last takes the rest.
        seed: of the choice.

    Returns:
        tokens [count, T + 1] int64, and the domain of each token [count, T + 1] int64.
    """
    rng = np.random.default_rng(seed)
    domains = sorted(pools)
    width = next(iter(pools.values())).shape[1]
    edges = [round(width * part / segments) for part in range(segments + 1)]
    tokens = np.empty((count, width), dtype=np.int64)
    domain = np.empty((count, width), dtype=np.int64)
    for row in range(count):
        picked = rng.choice(domains, size=segments, replace=segments > len(domains))
        for number, (first, last) in enumerate(itertools.pairwise(edges)):
            pool = pools[int(picked[number])]
            source = pool[rng.integers(len(pool))]
            start = int(rng.integers(0, width - (last - first) + 1))
            tokens[row, first:last] = source[start : start + last - first]
            domain[row, first:last] = picked[number]
    return tokens, domain
