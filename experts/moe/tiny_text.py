"""Deterministic text of six synthetic domains, the training data of the tiny pool.

Three languages share an alphabet and part of their words; three formal ones share identifiers. A single
character rarely identifies a domain, so a router needs the context.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

__all__ = ["DOMAINS", "TREE", "WORDS", "document", "encode", "token_rows"]

TREE = ("text", (("languages", (0, 1, 2)), ("formal", (3, 4, 5)), 6))  # 6 is the general expert
DOMAINS = ("alban", "bergish", "corvian", "calc", "records", "markup")
WORDS = 128  # tokens are the bytes of ASCII
_LEXICON, _SHARED, _FOLLOWERS = 260, 60, 6
_SYLLABLES = (
    "ba",
    "cor",
    "di",
    "el",
    "fu",
    "gan",
    "hi",
    "jo",
    "ke",
    "lu",
    "mar",
    "no",
    "pe",
    "ri",
    "su",
    "ta",
)
_ENDINGS = {"alban": ("a", "os", "im"), "bergish": ("en", "e", "ung"), "corvian": ("a", "en", "ix")}


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.choice((1, 2, 2, 3))))


def _lexicons() -> dict[str, list[str]]:
    """The words of each language; the first ones are common to all."""
    rng = random.Random(20)
    shared = list(dict.fromkeys(_word(rng) for _ in range(4 * _SHARED)))[:_SHARED]
    lexicons: dict[str, list[str]] = {}
    for name, endings in _ENDINGS.items():
        own = (_word(rng) + rng.choice(endings) for _ in range(4 * _LEXICON))
        lexicons[name] = shared + list(dict.fromkeys(own))[: _LEXICON - _SHARED]
    return lexicons


def _grammars() -> dict[str, list[list[int]]]:
    """The likely followers of each word in each language."""
    rng = random.Random(21)
    return {
        name: [[rng.randrange(len(words)) for _ in range(_FOLLOWERS)] for _ in words]
        for name, words in LEXICONS.items()
    }


LEXICONS = _lexicons()
FOLLOWERS = _grammars()
NAMES = LEXICONS["alban"][:24]  # identifiers of the formal domains are words of all languages


def _language(name: str, rng: random.Random) -> str:
    words, word, count = LEXICONS[name], rng.randrange(_LEXICON), 0
    parts: list[str] = []
    while count < 160:
        sentence: list[str] = []
        for _ in range(rng.randint(4, 9)):
            follows = FOLLOWERS[name][word]
            # Mostly a likely follower, the first most often; sometimes a new subject.
            word = follows[min(int(rng.expovariate(0.8)), _FOLLOWERS - 1)]
            if rng.random() < 0.15:
                word = min(int(rng.expovariate(0.02)), _LEXICON - 1)
            sentence.append(words[word])
        count += len(sentence)
        parts.append(" ".join(sentence) + rng.choice((".", ".", ",", "?")))
    return " ".join(parts)


def _calc(rng: random.Random) -> str:
    lines: list[str] = []
    while len(lines) < 45:
        name, other = rng.sample(NAMES, 2)
        one, two = rng.randint(0, 9), rng.randint(0, 9)
        lines += [f"{name} = {one} + {two}", f"assert {name} == {one + two}"]
        if rng.random() < 0.5:
            lines += [f"def {other}({name}):", f"    return {name} * {two}"]
    return "\n".join(lines)


def _records(rng: random.Random) -> str:
    lines: list[str] = []
    keys = rng.sample(NAMES, 4)
    for number in range(rng.randint(1, 50), 100):
        values = [f'"{key}": {rng.choice((str(rng.randint(0, 99)), "true", "null"))}' for key in keys]
        lines.append(f'{{"id": {number}, ' + ", ".join(values) + "}")
        if len(lines) == 16:
            break
    return "\n".join(lines)


def _markup(rng: random.Random) -> str:
    def element(depth: int) -> str:
        tag = rng.choice(NAMES)
        if depth == 0:
            return f"<{tag}>{rng.choice(NAMES)}</{tag}>"
        inside = "".join(element(depth - 1) for _ in range(rng.randint(1, 3)))
        return f"<{tag}>{inside}</{tag}>"

    parts: list[str] = []
    while sum(map(len, parts)) < 900:
        parts.append(element(rng.randint(1, 3)))
    return "\n".join(parts)


_MAKERS: dict[str, Callable[[random.Random], str]] = {
    **{name: lambda rng, name=name: _language(name, rng) for name in _ENDINGS},
    "calc": _calc,
    "records": _records,
    "markup": _markup,
}


def document(domain: str, number: int) -> str:
    """Return one document, determined by its domain and number.

    Args:
        domain: a name in `DOMAINS`.
        number: any integer.
    """
    return _MAKERS[domain](random.Random(f"{domain}/{number}"))


def encode(text: str) -> list[int]:
    """Return the token ids of an ASCII text, its bytes."""
    return list(text.encode("ascii"))


def token_rows(domain: str, first: int, count: int, length: int) -> np.ndarray:
    """Return one sequence of each of `count` documents.

    Args:
        domain: a name in `DOMAINS`.
        first: number of the first document.
        count: number of documents.
        length: T, less than every document.

    Returns:
        [count, T + 1] int64.
    """
    rows: list[list[int]] = []
    for number in range(first, first + count):
        ids = encode(document(domain, number))
        start = random.Random(number).randrange(len(ids) - length)
        rows.append(ids[start : start + length + 1])
    return np.array(rows, dtype=np.int64)
