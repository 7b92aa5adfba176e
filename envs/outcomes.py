"""An outcome table as tensors on one device: what the batched core looks things up in."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experts import InputError, OutcomeTable

__all__ = ["Outcomes", "compute_scale", "rows_of"]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Outcomes:
    """What every expert would have done on every query.

    Attributes:
        features: [T, D] float32; where the table's are memory-mapped and the device is the CPU they stay in
            their file, rows being read as they are asked for, and must not be written to.
        quality: [T, N] float32 in [0, 1].
        compute: [T, N] float32, cost over the dearest expert's mean cost.
        probabilities: [T, N, C] float32, the class distribution each expert gave, or None.
        label: [T] int64, the right class, or None.
    """

    features: Tensor
    quality: Tensor
    compute: Tensor
    probabilities: Tensor | None = None
    label: Tensor | None = None

    @classmethod
    def of(cls, table: OutcomeTable, scale: float, device: torch.device | str = "cpu") -> Outcomes:
        """Move a table to a device.

        Args:
            table: the rows to play on.
            scale: cost of one unit of compute (`compute_scale` of the training rows).
            device: where the tensors live.

        Raises:
            InputError: the table has no features, or the unit of compute is not positive.
        """
        if not 0.0 < scale < float("inf"):
            raise InputError("scale", scale, "is no unit of compute", "use a cost above 0")
        if table.features is None:
            raise InputError("table", table.source, "has no features", "add a `features` column to it")
        probabilities, label = table.probabilities, table.label
        return cls(
            features=_mapped(table.features).to(device),
            quality=_tensor(table.quality, device),
            compute=_tensor(table.cost, device) / scale,
            probabilities=None if probabilities is None else _tensor(probabilities, device),
            label=None if label is None else torch.from_numpy(np.array(label)).to(device),
        )

    @property
    def queries(self) -> int:
        """T."""
        return self.quality.shape[0]

    @property
    def experts(self) -> int:
        """N."""
        return self.quality.shape[1]


def compute_scale(table: OutcomeTable) -> float:
    """Mean cost per query of the dearest expert: the unit in which compute is counted (1 if all are free)."""
    return float(table.cost.mean(axis=0, dtype=np.float64).max()) or 1.0


def rows_of(table: OutcomeTable | Path | str, split: str | None) -> OutcomeTable:
    """The rows of a split, or all if None, of a table, a Parquet path or an embedded source's name."""
    whole = table if isinstance(table, OutcomeTable) else OutcomeTable.read(table)
    return whole if split is None else whole.part(split)


def _mapped(array: np.ndarray) -> Tensor:
    if not isinstance(array, np.memmap):
        return _tensor(array, "cpu")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable", category=UserWarning)
        return torch.from_numpy(array)


def _tensor(array: np.ndarray, device: torch.device | str) -> Tensor:
    # A copy: a memory-mapped or shared array must not be written through a tensor.
    return torch.from_numpy(np.array(array, dtype=np.float32)).to(device)
