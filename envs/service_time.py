"""Service times of experts on queries: measured latency, or derived from answer lengths or costs."""

from __future__ import annotations

import numpy as np

from experts.io.errors import InputError
from experts.table.outcome_table import OutcomeTable

__all__ = ["service_times"]


def service_times(table: OutcomeTable, tokens_per_second: float = 50.0) -> np.ndarray:
    """Service time of every expert on every query.

    Args:
        table: with `latency_s`, which is used as it is; else `tokens_out` over `tokens_per_second`; else the
            cost, scaled to a mean of one second.
        tokens_per_second: decoding speed, for times derived from tokens.

    Returns:
        [T, N] float64 seconds, above 0.

    Raises:
        InputError: a time is missing or not above 0.
    """
    if tokens_per_second <= 0:
        raise InputError("tokens_per_second", tokens_per_second, "is not a speed", "use a number above 0")
    if table.latency_s is not None:
        name, times = "latency_s", table.latency_s.astype(np.float64)
    elif table.tokens_out is not None:
        name, times = "tokens_out", np.maximum(table.tokens_out.astype(np.float64), 1.0) / tokens_per_second
    else:
        name, times = "cost", table.cost.astype(np.float64) / (table.cost.mean(dtype=np.float64) or 1.0)
    wrong = np.argwhere(~(np.isfinite(times) & (times > 0)))
    if len(wrong):
        row, expert = wrong[0]
        problem = f"row {row} of {table.experts[expert]} has no time above 0"
        fix = f"fill in {name} for all experts, or drop the column"
        raise InputError(name, float(times[row, expert]), problem, fix)
    return times
