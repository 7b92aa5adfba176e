"""Intervals: bootstraps that resample test queries and seeds together, paired across methods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

__all__ = ["Interval", "interval"]

_RESAMPLES = 2_000
_BATCH_NUMBERS = 20_000_000  # values gathered at a time, so that memory stays bounded for long tables


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


def interval(values: np.ndarray, seed: int = 0) -> Interval:
    """Mean of values over seeds and queries, with a 95% percentile bootstrap interval.

    Queries and seeds are resampled independently of each other and every seed sees the same queries, so
    the interval covers a new sample of both. For a paired comparison pass the differences.

    Args:
        values: [S, T] float, one row a training seed, one column a test query.
        seed: of the resampling.
    """
    values = np.asarray(values, dtype=np.float64)
    seeds, queries = values.shape
    mean = float(values.mean())
    if queries < 2 or np.ptp(values) == 0.0:
        return Interval(mean, mean, mean)
    if (values == values[0]).all():
        values, seeds = values[:1], 1  # a method without randomness

    def statistic(*chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        if seeds == 1:
            return values[0][chosen[0]].mean(axis=axis)
        query, run = chosen
        return values[run[..., :, None], query[..., None, :]].mean(axis=(-2, -1))

    samples = (np.arange(queries),) if seeds == 1 else (np.arange(queries), np.arange(seeds))
    result = bootstrap(
        samples,
        statistic,
        n_resamples=_RESAMPLES,
        batch=max(1, _BATCH_NUMBERS // (seeds * queries)),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(mean, float(result.confidence_interval.low), float(result.confidence_interval.high))
