"""Embedded sources: real data, with the frozen experts pretrained on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..outcomes import OutcomeTable

__all__ = ["SOURCES", "Source", "open_source"]


class Source(Protocol):
    """Something that yields an outcome table."""

    def table(self, *, seed: int = 0, progress: bool = True) -> OutcomeTable:
        """Return the outcome table, collected the first time and cached from then on."""
        ...


SOURCES: dict[str, Callable[[str | None], Source]] = {}


def open_source(name: str) -> Source | None:
    """Return the source of this name ("name" or "name:argument"), or None where there is none."""
    base, _, argument = name.partition(":")
    build = SOURCES.get(base)
    return None if build is None else build(argument or None)
