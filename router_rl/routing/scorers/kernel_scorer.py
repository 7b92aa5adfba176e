"""The kernel smoother: the mean of all stored values, weighted by a Gaussian kernel of the distance.

    z(x) = sum_r K_r(x) v_r / sum_r K_r(x),    K_r(x) = exp(-|p(x) - q_r|^2 / (2 h(x)^2))

p projects the standardised features on their principal components. The bandwidth h(x) is a factor times the
distance to the m-th nearest stored row, so that it is narrow where rows are dense (Terrell and Scott's
"balloon" estimator).

Source: Nadaraya 1964, https://doi.org/10.1137/1109020; Watson 1964, https://www.jstor.org/stable/25049340;
    adaptive bandwidth: Terrell and Scott 1992, https://doi.org/10.1214/aos/1176348768.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..router_error import RouterError
from .stored_rows import StoredRowsScorer

__all__ = ["KernelScorer"]

# Smallest squared bandwidth, relative to 1 + |p(x)|^2: below it, distances are rounding errors of float32.
_FLOOR = 1e-5


class KernelScorer(StoredRowsScorer):
    """The Nadaraya-Watson mean of the stored values, with an adaptive bandwidth.

    Args:
        inputs: D.
        experts: N (or as many values as the selection rule takes).
        rows: R, stored rows.
        components: C, principal components that distances are measured in, 1 to D.
        neighbours: m, the neighbour whose distance sets the bandwidth, 1 to R.
        factor: bandwidth over the distance to that neighbour, above 0.

    Raises:
        RouterError: a number is outside its range.
    """

    kind: ClassVar[str] = "kernel"

    def __init__(
        self, inputs: int, experts: int, rows: int, components: int, neighbours: int, factor: float
    ) -> None:
        if not 1 <= components <= inputs:
            raise RouterError(f"KernelScorer.components={components} does not fit; use 1 to {inputs}")
        if not 1 <= neighbours <= rows:
            raise RouterError(
                f"KernelScorer.neighbours={neighbours} does not fit {rows} rows; use 1 to {rows}"
            )
        if not factor > 0.0:
            raise RouterError(f"KernelScorer.factor={factor} is no bandwidth; use a number above 0")
        super().__init__(inputs, experts, rows, components)
        self.components = components
        self.neighbours = neighbours
        self.factor = factor
        # Not `torch.eye`: on the meta device, where files are checked, it imports torch.compile for seconds.
        self.projection = nn.Parameter(
            torch.zeros(components, inputs).fill_diagonal_(1.0), requires_grad=False
        )

    def placed(self, x: Tensor) -> Tensor:
        """The principal components [T, C] float32 of raw inputs [T, D]."""
        return ((x.float() - self.shift) * self.scale) @ self.projection.T

    def pooled(self, distance: Tensor, placed: Tensor, rows: int) -> Tensor:
        """Kernel-weighted mean of all values."""
        length = placed.square().sum(dim=-1, keepdim=True)
        square = (2.0 * distance + length).clamp(min=0.0)
        nearest = square.topk(min(self.neighbours, rows), dim=-1, largest=False).values
        bandwidth = torch.maximum(nearest[:, -1:], _FLOOR * (1.0 + length))
        return (-0.5 * square / (self.factor**2 * bandwidth)).softmax(dim=-1) @ self.values

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {
            "kind": self.kind,
            "inputs": self.inputs,
            "experts": self.experts,
            "rows": self.rows,
            "components": self.components,
            "neighbours": self.neighbours,
            "factor": self.factor,
        }
