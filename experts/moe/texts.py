"""Documents of several domains, and the token sequences of one length that are made of them.

Documents are split as a whole: no part of a document that an expert or a router is trained on is used to
measure it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..io.errors import InputError

__all__ = ["PARTS", "cut_sequences", "mixed_sequences", "pack", "pure_and_mixed", "split_documents"]

PARTS = ("expert", "train", "validation", "test")  # what a document is used for
_SHARES = (0.55, 0.2, 0.1, 0.15)
_CHARACTERS = 6  # a token has fewer on average in every text here, so this many hold enough tokens


def split_documents(documents: Sequence[str], shares: Sequence[float] = _SHARES) -> dict[str, list[str]]:
    """Divide documents among the parts by a hash of their text; copies of a document stay together.

    Args:
        documents: of one domain.
        shares: fraction of documents for each of `PARTS`; they sum to 1.

    Returns:
        The documents of each part, in their order and without copies.
    """
    bounds = np.cumsum(shares)
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for document in dict.fromkeys(documents):
        place = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") / 2**64
        parts[PARTS[min(int(np.searchsorted(bounds, place, side="right")), len(PARTS) - 1)]].append(document)
    return parts


def pack(
    documents: Sequence[str],
    encode: Callable[[str], Sequence[int]],
    length: int,
    count: int,
    *,
    each: int = 2,
    seed: int = 0,
    separator: int | None = None,
) -> np.ndarray:
    """Return exactly `count` sequences of documents; see `cut_sequences`.

    Args:
        documents, encode, length, each, seed, separator: see `cut_sequences`.
        count: S, number of sequences.

    Returns:
        [S, T + 1] int64.

    Raises:
        InputError: the documents hold fewer sequences.
    """
    rows = cut_sequences(documents, encode, length, count, each=each, seed=seed, separator=separator)
    if len(rows) < count:
        problem = f"{len(documents)} documents hold {len(rows)} sequences of {length} tokens"
        raise InputError("count", count, problem, "use a smaller count or length, or add documents")
    return rows


def cut_sequences(
    documents: Sequence[str],
    encode: Callable[[str], Sequence[int]],
    length: int,
    count: int,
    *,
    each: int = 2,
    seed: int = 0,
    separator: int | None = None,
) -> np.ndarray:
    """Cut sequences of T + 1 tokens out of documents, in a seeded order, and pack short documents together.

    A document of at least T + 1 tokens gives sequences of its own. Shorter documents are joined, with the
    separator after each, and cut into sequences; attention then reaches across documents, as in pretraining.

    Args:
        documents: of one domain and one part.
        encode: text to token ids.
        length: T.
        count: the maximum number of sequences.
        each: the maximum number of sequences of one document, so that a long one does not fill the sample.
        seed: of the order, and of where a sequence starts in a long document.
        separator: the token after each short document, such as the tokenizer's end-of-text token; None: none.

    Returns:
        [S, T + 1] int64 with S up to `count`: as many as the documents hold.

    >>> cut_sequences(["ab", "cd", "efgh"], lambda text: [ord(c) for c in text], 3, 9, separator=0).tolist()
    [[101, 102, 103, 104], [97, 98, 0, 99]]
    """
    rng = np.random.default_rng(seed)
    width = length + 1
    rows: list[list[int]] = []
    joined: list[int] = []  # of short documents; shorter than a sequence
    for number in rng.permutation(len(documents)):
        if len(rows) >= count:
            break
        text = documents[int(number)]
        needed = _CHARACTERS * width * each  # the rest is not encoded
        start = int(rng.integers(0, max(1, len(text) - needed)))
        ids = [int(token) for token in encode(text[start : start + needed])]
        whole = min(len(ids) // width, each)
        rows.extend(ids[width * place : width * (place + 1)] for place in range(whole))
        if ids and not whole:
            joined += ids if separator is None else [*ids, separator]
            if len(joined) >= width:
                rows.append(joined[:width])
                joined = joined[width:]
    return np.array(rows[:count], dtype=np.int64).reshape(-1, width)


def pure_and_mixed(
    rows: Mapping[int, np.ndarray], pure: int, mixed: int, segments: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return sequences of one domain each, followed by sequences that change their domain.

    Args:
        rows: domain -> [S, T + 1] int64. The first `pure` are taken as they are; mixed sequences are cut from
            the rest.
        pure: sequences of each domain.
        mixed: sequences that change their domain.
        segments: of each mixed sequence, see `mixed_sequences`.
        seed: of the mixed sequences.

    Returns:
        Tokens [D * pure + mixed, T + 1] int64, and the domain of each token, int64 of the same shape.
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
    """Return sequences that change their domain, as a conversation does, in segments of equal length.

    Args:
        pools: domain -> [S, T + 1] int64, the sequences that segments are cut from.
        count: number of sequences.
        segments: in each sequence; if T + 1 is not a multiple, the last one is longer.
        seed: of the domains and the cuts.

    Returns:
        Tokens [count, T + 1] int64, and the domain of each token [count, T + 1] int64.
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
