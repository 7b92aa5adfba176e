"""The units of the queueing environment, measured on the training rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from experts import OutcomeTable

from .outcomes import compute_scale
from .queueing_config import QueueingConfig
from .service_time import service_times

__all__ = ["QueueUnits"]


class QueueUnits(NamedTuple):
    """The units of compute, time and load.

    Attributes:
        compute: cost of one unit of compute.
        service: [N] mean service time of each expert, seconds.
        batch_service: [N] mean seconds of a full batch, which takes as long as its longest request.
    """

    compute: float
    service: tuple[float, ...]
    batch_service: tuple[float, ...]

    @classmethod
    def of(cls, table: OutcomeTable, config: QueueingConfig) -> QueueUnits:
        """The units of a table's rows."""
        times = np.sort(service_times(table), axis=0)
        # The distribution of the longest of `batch` draws.
        below = np.linspace(0.0, 1.0, len(times) + 1) ** config.batch
        longest = np.diff(below) @ times * (1.0 + config.batch_slope * (config.batch - 1))
        return cls(compute_scale(table), tuple(times.mean(axis=0).tolist()), tuple(longest.tolist()))

    @property
    def mean_service(self) -> float:
        """Mean service time over the experts, seconds: the unit of deadlines and outages."""
        return float(np.mean(self.service))
