"""The embedded sources by name: one line each."""

from __future__ import annotations

from collections.abc import Callable

from .digits import Digits
from .fashion_mnist import FashionMnist
from .source import Source

__all__ = ["SOURCES", "open_source"]

SOURCES: dict[str, Callable[[str | None], Source]] = {
    "digits": Digits,
    "fashion-mnist": FashionMnist,
}


def open_source(name: str) -> Source | None:
    """Return the source of this name ("name" or "name:argument"), or None where there is none.

    Raises:
        InputError: the source exists but cannot be used.
    """
    base, _, argument = name.partition(":")
    build = SOURCES.get(base)
    return None if build is None else build(argument or None)
