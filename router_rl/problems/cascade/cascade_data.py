"""What cascade methods learn from: the answers of all experts, and beliefs cross-fitted on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from envs.cascade import CascadeTable

from .beliefs import FittedBeliefs, fit_beliefs

__all__ = ["CascadeData", "agreement"]


@dataclass(frozen=True, eq=False, kw_only=True)
class CascadeData:
    """Training and validation rows.

    Attributes:
        table: the rows, as the environment has them.
        experts: names of the experts.
        fitted: beliefs; those of these rows are cross-fitted.
        same: [T, N, N] float32, 1 where two experts give the same answer, 0 where that is unknown.
        moves: [T, N, N] float32, how far an answer moves the log-odds of another one, once both are known;
            0 where agreement does not move the beliefs.
    """

    table: CascadeTable
    experts: tuple[str, ...]
    fitted: FittedBeliefs
    same: Tensor
    moves: Tensor

    @classmethod
    def of(
        cls,
        table: CascadeTable,
        experts: Sequence[str],
        seed: int,
        same: Tensor | None = None,
        *,
        agreement_beliefs: bool = False,
    ) -> CascadeData:
        """Fit the beliefs on some rows.

        Args:
            table: the rows.
            experts: the N names.
            seed: of the beliefs.
            same: `agreement(table)`, where it is known already.
            agreement_beliefs: whether the agreement of answers moves the beliefs.
        """
        outcomes = table.outcomes
        same = agreement(table) if same is None else same
        read = same if agreement_beliefs else None
        fitted = fit_beliefs(outcomes.features, table.confidence, outcomes.quality, seed, read)
        moves = fitted.beliefs.moves(same)
        return cls(table=table, experts=tuple(experts), fitted=fitted, same=same, moves=moves)

    @property
    def quality(self) -> Tensor:
        """[T, N] float32 in [0, 1]."""
        return self.table.outcomes.quality

    @property
    def compute(self) -> Tensor:
        """[T, N] float32, in units of the most expensive expert's mean cost."""
        return self.table.outcomes.compute


def agreement(table: CascadeTable) -> Tensor:
    """Return which experts give equal answers, [T, N, N] float32; each only with itself if unknown."""
    if table.same is not None:
        return table.same.float()
    return torch.eye(table.outcomes.experts).expand(table.outcomes.queries, -1, -1)
