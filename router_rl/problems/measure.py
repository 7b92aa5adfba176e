"""What a policy earned on the queries or episodes of a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .statistics import Interval, interval

__all__ = ["Measurement"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """What a policy earned on T queries or episodes.

    Attributes:
        utility: [T] float.
        parts: what utility is made of, such as quality and compute, [T] float each.
        facts: numbers that are no means of parts, such as p95.
        share: [T, N] float32, how each decision divided among the experts, where known; rows sum to 1.
    """

    utility: np.ndarray
    parts: Mapping[str, np.ndarray]
    facts: Mapping[str, float] = field(default_factory=dict)
    share: np.ndarray | None = None

    @property
    def shares(self) -> np.ndarray:
        """[N] float64, the share of all decisions that each expert took."""
        assert self.share is not None
        return self.share.mean(axis=0, dtype=np.float64)

    def means(self) -> dict[str, float]:
        """Means of utility and its parts by name, and the facts."""
        means = {name: float(np.mean(part, dtype=np.float64)) for name, part in self.parts.items()}
        return {"utility": float(np.mean(self.utility, dtype=np.float64)), **means, **self.facts}

    def interval(self) -> Interval:
        """Mean utility with a 95% bootstrap interval over the queries."""
        return interval(self.utility[np.newaxis])
