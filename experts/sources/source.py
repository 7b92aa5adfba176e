"""What a source of outcomes offers: questions, and the frozen experts who answer them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ..pool.expert_pool import ExpertPool

__all__ = ["Queries", "Source"]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Queries:
    """T classification questions.

    Args:
        query_id: [T] str, distinct.
        inputs: [T, ...] what the experts see.
        features: [T, D] float32, what the router sees.
        label: [T] int64, the right class.
        split: [T] str, train, validation or test.
        group: [T] str, the condition.
        base: [T] int64, the image behind the query; queries of one image never straddle splits.
    """

    query_id: np.ndarray
    inputs: torch.Tensor
    features: np.ndarray
    label: np.ndarray
    split: np.ndarray
    group: np.ndarray
    base: np.ndarray


class Source(Protocol):
    """Questions and a pool. Both are functions of the seed alone."""

    name: str

    def describe(self) -> str:
        """Return one sentence on where the outcomes come from."""
        ...

    def digest(self, seed: int) -> str:
        """Return a name for this source's data, settings and seed, for use as a cache key."""
        ...

    def queries(self, seed: int) -> Queries:
        """Return the questions."""
        ...

    def pool(self, seed: int, *, progress: bool = True) -> ExpertPool:
        """Return the frozen experts, pretrained the first time and loaded from then on."""
        ...
