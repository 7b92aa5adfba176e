"""The rows a cascade learns from: what every expert would say, and beliefs in it from other rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from envs.cascade import CascadeTable
from envs.outcomes import compute_scale
from experts import OutcomeTable

from .beliefs import FittedBeliefs, fit_beliefs

__all__ = ["CascadeData"]


@dataclass(frozen=True, eq=False, kw_only=True)
class CascadeData:
    """Training and validation rows.

    Attributes:
        table: the rows, as the environment has them.
        names: of the experts.
        fitted: beliefs; those of these rows come from networks that have not seen them.
        same: [T, N, N] float32, 1 where two experts give the same answer, 0 where unknown.
        scale: the unit of compute, in the table's cost unit.
    """

    table: CascadeTable
    names: tuple[str, ...]
    fitted: FittedBeliefs
    same: Tensor
    scale: float

    @classmethod
    def of(cls, table: OutcomeTable, seed: int = 0) -> CascadeData:
        """Take the training and validation rows of a table and fit the beliefs.

        Raises:
            InputError: the table has no features, or no confidences.
        """
        rows = table.take(np.isin(table.split, ("train", "validation")))
        scale = compute_scale(table.part("train"))
        known = CascadeTable.of(rows, scale)
        outcomes = known.outcomes
        fitted = fit_beliefs(outcomes.features, known.confidence, outcomes.quality, seed)
        alone = torch.eye(outcomes.experts).expand(outcomes.queries, -1, -1)
        same = alone if known.same is None else known.same.float()
        return cls(table=known, names=table.experts, fitted=fitted, same=same, scale=scale)

    @property
    def quality(self) -> Tensor:
        """[T, N] float32."""
        return self.table.outcomes.quality

    @property
    def compute(self) -> Tensor:
        """[T, N] float32."""
        return self.table.outcomes.compute
