"""Ranges of the numbers of options, as annotations of their fields."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

__all__ = [
    "LARGEST",
    "Count",
    "Fraction",
    "NonNegative",
    "Positive",
    "Range",
    "Seed",
    "Share",
    "Size",
    "Whole",
    "Width",
]

LARGEST = 2**31 - 1
"""The largest whole number of an option without a range of its own: no index, loop or file takes more."""


@dataclass(frozen=True, repr=False)
class Range:
    """The numbers from `low` to `high`, with or without the ends.

    Attributes:
        low: the smallest number.
        high: the largest number.
        above: whether `low` is not in the range.
        below: whether `high` is not in the range.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, number: float) -> bool:
        """Return whether a number is in the range."""
        high = number < self.high if self.below else number <= self.high
        return high and (number > self.low if self.above else number >= self.low)

    def __repr__(self) -> str:
        """Return the range in words, such as `above 0`, `of at least 1` or `from 0 to 1`."""
        if self.high == math.inf:
            return f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        high = f"{self.high:,}" if isinstance(self.high, int) else f"{self.high:g}"
        if self.above or self.below:
            low = f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
            return f"{low} and {'below' if self.below else 'at most'} {high}"
        return f"from {self.low:g} to {high}"


Positive = Annotated[float, Range(0.0, above=True)]
"""A number above 0."""

NonNegative = Annotated[float, Range(0.0)]
"""A number of at least 0."""

Fraction = Annotated[float, Range(0.0, 1.0)]
"""A number from 0 to 1, such as a probability."""

Share = Annotated[float, Range(0.0, 1.0, above=True)]
"""A number above 0 and at most 1."""

Whole = Annotated[int, Range(0)]
"""A whole number of at least 0."""

Count = Annotated[int, Range(1)]
"""A whole number of at least 1."""

Seed = Annotated[int, Range(0)]
"""A random seed."""

Width = Annotated[int, Range(1, 8192)]
"""A width of a layer of a small network, or another size that memory grows with at once."""

Size = Annotated[int, Range(1, 10_000_000)]
"""A number of rows, steps or parallel environments that memory grows with at once."""
