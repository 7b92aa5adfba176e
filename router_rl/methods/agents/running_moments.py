"""Running mean and variance of the columns of batches, merged exactly."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["RunningMoments"]

_SMALLEST = 1e-3  # a column that varies less is not stretched further


class RunningMoments(NamedTuple):
    """Mean and variance of all rows seen so far.

    Attributes:
        rows: their number.
        mean: [O] float64.
        squares: [O] float64, sums of squared differences from the mean.
    """

    rows: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, size: int, device: torch.device | str = "cpu") -> RunningMoments:
        """Return the moments of no row of O = `size` columns."""
        zeros = torch.zeros(size, dtype=torch.float64, device=device)
        return cls(0, zeros, zeros.clone())

    def updated(self, rows: Tensor) -> RunningMoments:
        """Return the moments with rows [M, O] added.

        Source: Chan, Golub, LeVeque 1979, eq. 2.1, http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/.
        """
        added, count = rows.double(), len(rows)
        mean = added.mean(dim=0)
        difference, total = mean - self.mean, self.rows + count
        squares = self.squares + (added - mean).square().sum(dim=0)
        squares = squares + difference.square() * (self.rows * count / total)
        return RunningMoments(total, self.mean + difference * (count / total), squares)

    def deviation(self) -> Tensor:
        """Return the standard deviations [O] float64, at least 0.001; 1 for a constant column."""
        deviation = (self.squares / max(self.rows, 1)).sqrt()
        return torch.where(deviation > 1e-9, deviation.clamp(min=_SMALLEST), 1.0)
