"""Comparison of what a document says with what a program prints."""

from __future__ import annotations

import re

import pytest

__all__ = ["alike"]

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def alike(before: str, after: str) -> bool:
    """Return whether two texts have the same words, and numbers that differ by at most 2% or 0.01.

    Other CPUs round otherwise, and a router may then decide a query otherwise. Lines may be broken elsewhere.
    """
    words = [_NUMBER.sub("#", text).split() for text in (before, after)]
    first, second = ([float(number) for number in _NUMBER.findall(text)] for text in (before, after))
    return words[0] == words[1] and second == pytest.approx(first, rel=0.02, abs=0.01)
