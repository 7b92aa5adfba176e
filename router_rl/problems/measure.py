"""Measurement: utility of a policy and its parts on the queries or episodes of a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .statistics import Interval, interval

__all__ = ["Measurement"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """Utility of a policy on T queries or episodes.

    Attributes:
        utility: [T] float.
        parts: components of the utility by name, such as quality and compute, [T] float each.
        facts: statistics that are not means of parts, such as p95.
        share: [T, N] float32, share of each decision that each expert receives, if known; rows sum to 1.
    """

    utility: np.ndarray
    parts: Mapping[str, np.ndarray]
    facts: Mapping[str, float] = field(default_factory=dict)
    share: np.ndarray | None = None

    @property
    def shares(self) -> np.ndarray:
        """Share of all decisions that each expert received, [N] float64."""
        assert self.share is not None
        return self.share.mean(axis=0, dtype=np.float64)

    def means(self) -> dict[str, float]:
        """Return the means of utility and its parts by name, and the facts."""
        means = {name: float(np.mean(part, dtype=np.float64)) for name, part in self.parts.items()}
        return {"utility": float(np.mean(self.utility, dtype=np.float64)), **means, **self.facts}

    def interval(self) -> Interval:
        """Return the mean utility with a 95% bootstrap CI over the queries."""
        return interval(self.utility[np.newaxis])
