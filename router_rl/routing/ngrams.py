"""N-grams of a text and their hashes, equal to scikit-learn's, without scikit-learn.

The word analyser, the analyser of characters within words (`char_wb`) and the hash are those of
`sklearn.feature_extraction.text`, so that a vocabulary fitted there gives the same features here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from .router_error import RouterError

__all__ = ["ANALYSERS", "analyser", "hashed_column", "murmurhash3"]

Analyser = Callable[[str], list[str]]

_WORD = re.compile(r"(?u)\b\w\w+\b")
_SPACES = re.compile(r"\s\s+")
_MASK = 0xFFFFFFFF


def analyser(kind: str, min_n: int, max_n: int) -> Analyser:
    """A function from a text to its n-grams of `min_n` to `max_n` words or characters, repeats included.

    Args:
        kind: `word`, or `char_wb`: characters within words padded with a space on either side.
        min_n, max_n: the n-gram range, at least 1.

    Raises:
        RouterError: the kind is unknown or the range is not increasing.

    >>> analyser("word", 1, 2)("Route a hard one, please")
    ['route', 'hard', 'one', 'please', 'route hard', 'hard one', 'one please']
    """
    if kind not in ANALYSERS:
        raise RouterError(f"analyser {kind!r} is unknown; use {' or '.join(ANALYSERS)}")
    if not 1 <= min_n <= max_n:
        raise RouterError(f"ngram_range={[min_n, max_n]} must be 1 <= min_n <= max_n")
    terms = ANALYSERS[kind]
    return lambda text: terms(text.lower(), min_n, max_n)


def murmurhash3(data: bytes) -> int:
    """MurmurHash3 of 32 bits with seed 0, as a signed number (Appleby 2011, `MurmurHash3_x86_32`).

    >>> murmurhash3(b"foo"), murmurhash3(b"")
    (-156908512, 0)
    """
    value, length = 0, len(data)
    whole = length & ~3
    for start in range(0, whole, 4):
        block = int.from_bytes(data[start : start + 4], "little") * 0xCC9E2D51 & _MASK
        block = (block << 15 | block >> 17) & _MASK
        value ^= block * 0x1B873593 & _MASK
        value = (value << 13 | value >> 19) & _MASK
        value = value * 5 + 0xE6546B64 & _MASK
    if whole < length:
        block = int.from_bytes(data[whole:], "little") * 0xCC9E2D51 & _MASK
        block = (block << 15 | block >> 17) & _MASK
        value ^= block * 0x1B873593 & _MASK
    value ^= length
    value = (value ^ value >> 16) * 0x85EBCA6B & _MASK
    value = (value ^ value >> 13) * 0xC2B2AE35 & _MASK
    value ^= value >> 16
    return value - (1 << 32) if value >> 31 else value


@lru_cache(maxsize=1 << 17)  # words recur, and a hash in pure Python takes microseconds
def hashed_column(term: str, columns: int) -> tuple[int, float]:
    """The column of an n-gram and its sign, 1 or -1 (Weinberger et al. 2009).

    Args:
        term: the n-gram.
        columns: their number.

    Source: Feature Hashing for Large Scale Multitask Learning, https://arxiv.org/abs/0902.2206.
    """
    value = murmurhash3(term.encode())
    return abs(value) % columns, 1.0 if value >= 0 else -1.0


def _words(text: str, min_n: int, max_n: int) -> list[str]:
    tokens = _WORD.findall(text)
    terms = list(tokens) if min_n == 1 else []
    for size in range(max(min_n, 2), min(max_n, len(tokens)) + 1):
        terms += [" ".join(tokens[start : start + size]) for start in range(len(tokens) - size + 1)]
    return terms


def _characters(text: str, min_n: int, max_n: int) -> list[str]:
    terms: list[str] = []
    for word in _SPACES.sub(" ", text).split():
        padded = f" {word} "
        for size in range(min_n, max_n + 1):
            terms += [padded[start : start + size] for start in range(max(len(padded) - size, 0) + 1)]
            if len(padded) <= size:
                break  # a word shorter than n counts once
    return terms


ANALYSERS: dict[str, Callable[[str, int, int], list[str]]] = {"word": _words, "char_wb": _characters}
