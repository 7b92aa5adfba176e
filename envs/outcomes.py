"""An outcome table as tensors on one device: the data of a batched core."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experts import InputError, OutcomeTable, open_table
from experts.table.mapped_column import is_mapped, released, temporary
from experts.table.missing_outcomes import answered_mean, require_complete

__all__ = ["Outcomes", "compute_scale", "open_rows"]

_CHUNK = 65_536  # rows of memory-mapped costs divided together


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Outcomes:
    """The outcome of every expert on every query.

    Attributes:
        features: [T, D] float32. If the table's features are memory-mapped and the device is the CPU, they
            stay in their file: rows are read on access, and must not be written to.
        quality: [T, N] float32 in [0, 1]; likewise.
        compute: [T, N] float32, cost over the mean cost of the most expensive expert; likewise.
        probabilities: [T, N, C] float32, the class distribution that each expert gave, or None.
        label: [T] int64, the correct class, or None.
        smoothing: share of the quality that is the probability given to the correct class (see `smoothed`).
    """

    features: Tensor
    quality: Tensor
    compute: Tensor
    probabilities: Tensor | None = None
    label: Tensor | None = None
    smoothing: float = 0.0

    @classmethod
    def of(cls, table: OutcomeTable, scale: float, device: torch.device | str = "cpu") -> Outcomes:
        """Move a table to a device.

        Args:
            table: the rows.
            scale: cost of one unit of compute (`compute_scale` of the training rows).
            device: where the tensors live.

        Raises:
            InputError: the table has no features, outcomes are missing, or `scale` is not positive.
        """
        if not 0.0 < scale < float("inf"):
            raise InputError("scale", scale, "is not a positive cost", "use a cost above 0")
        if table.features is None:
            raise InputError("table", table.source, "has no features", "add a `features` column to it")
        require_complete(table, "an environment or an evaluation")
        probabilities, label = table.probabilities, table.label
        return cls(
            features=_mapped(table.features).to(device),
            quality=_mapped(table.quality).to(device),
            compute=_scaled(table.cost, scale, device),
            probabilities=None if probabilities is None else _tensor(probabilities, device),
            label=None if label is None else torch.from_numpy(np.array(label)).to(device),
        )

    @property
    def queries(self) -> int:
        """T, the number of queries."""
        return self.quality.shape[0]

    @property
    def experts(self) -> int:
        """N, the number of experts."""
        return self.quality.shape[1]

    def part(self, rows: slice) -> Outcomes:
        """The outcomes of consecutive rows, as views.

        Args:
            rows: of the T queries.
        """
        columns = ("features", "quality", "compute", "probabilities", "label")
        known = {name: getattr(self, name) for name in columns}
        return replace(self, **{name: each[rows] for name, each in known.items() if each is not None})

    def smoothed(self, smoothing: float) -> Outcomes:
        """The outcomes with a denser quality, for training: it is partly the correct class's probability.

        Args:
            smoothing: s, from 0 to 1; quality becomes `(1 - s) quality + s P(label)`. It has no effect if the
                table has no class probabilities.
        """
        if not smoothing or self.probabilities is None or self.label is None:
            return self
        right = self.label.reshape(-1, 1, 1).expand(-1, self.experts, 1)
        given = self.probabilities.gather(-1, right).squeeze(-1)
        return replace(self, quality=torch.lerp(self.quality, given, smoothing), smoothing=smoothing)

    def feature_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds [D] of the features in an observation space."""
        # A margin of 1: a constant feature has no range.
        low, high = self.features.amin(dim=0), self.features.amax(dim=0)
        return low.cpu().numpy() - 1.0, high.cpu().numpy() + 1.0


def compute_scale(table: OutcomeTable) -> float:
    """The unit of compute: the mean cost per query of the most expensive expert (1 if all are free).

    Of a sparse table, an expert's mean is over the queries that it answered.
    """
    return float(answered_mean(table.cost).max()) or 1.0


def open_rows(
    table: OutcomeTable | Path | str, split: str | None, scale: float | None = None
) -> tuple[OutcomeTable, float]:
    """The rows that an environment draws from, and their unit of compute.

    Args:
        table: an outcome table, a Parquet path or the name of an embedded source.
        split: `train`, `validation`, `tuning` or `test`; None for all rows.
        scale: the unit of compute, in the table's cost unit; `compute_scale` of the rows if None.

    Raises:
        InputError: the table cannot be read, or has no such split.
    """
    whole = table if isinstance(table, OutcomeTable) else open_table(table)
    rows = whole if split is None else whole.part(split)
    return rows, compute_scale(rows) if scale is None else scale


def _mapped(array: np.ndarray) -> Tensor:
    if not is_mapped(array):
        return _tensor(array, "cpu")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable", category=UserWarning)
        return torch.from_numpy(array)


def _scaled(cost: np.ndarray, scale: float, device: torch.device | str) -> Tensor:
    if not is_mapped(cost) or torch.device(device).type != "cpu":
        return _mapped(cost).to(device) / scale
    target = temporary(cost.shape)
    for first in range(0, len(cost), _CHUNK):
        target[first : first + _CHUNK] = (_mapped(cost[first : first + _CHUNK]) / scale).numpy()
    released(cost)
    return _mapped(released(target))


def _tensor(array: np.ndarray, device: torch.device | str) -> Tensor:
    # A copy: a memory-mapped or shared array must not be written through a tensor.
    return torch.from_numpy(np.array(array, dtype=np.float32)).to(device)
