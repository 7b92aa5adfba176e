"""The interface of a source of outcomes: queries, and the frozen experts that answer them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # listing sources needs neither numpy nor torch
    import numpy as np
    import torch

    from ..pool.expert_pool import ExpertPool

__all__ = ["Queries", "Source"]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Queries:
    """T classification queries.

    Args:
        query_id: [T] str, distinct.
        inputs: [T, ...] the experts' inputs.
        features: [T, D] float32, the router's inputs.
        label: [T] int64, the correct class.
        split: [T] str, train, validation or test.
        group: [T] str, the condition.
        base: [T] int64, the image behind the query; all queries of one image are in the same split.
    """

    query_id: np.ndarray
    inputs: torch.Tensor
    features: np.ndarray
    label: np.ndarray
    split: np.ndarray
    group: np.ndarray
    base: np.ndarray


class Source(Protocol):
    """Queries and an expert pool; both depend on the seed only."""

    name: str

    def describe(self) -> str:
        """Return one sentence that says what the outcomes are of."""
        ...

    def digest(self, seed: int) -> str:
        """Return a cache key of this source's data, configuration and seed."""
        ...

    def queries(self, seed: int) -> Queries:
        """Return the queries."""
        ...

    def pool(self, seed: int, *, progress: bool = True) -> ExpertPool:
        """Return the frozen experts, which are pretrained on the first call and loaded on later ones."""
        ...
