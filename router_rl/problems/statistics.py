"""Confidence intervals over test queries and seeds, paired across methods.

Percentile bootstrap intervals, widened for few seeds. With S seeds the bootstrap underestimates the variance
between seeds by (S - 1) / S and ignores that S values estimate it poorly. Where seeds dominate, its intervals
of 3 or 5 seeds cover the truth less often than in 90% of cases. So both ends are moved away from the estimate
by the ratio of a t interval to a normal one, with Satterthwaite's degrees of freedom for the sum of the two
variances (Satterthwaite 1946, https://doi.org/10.2307/3002019). The ratio is near 1 where queries dominate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap, norm, t, trim_mean

__all__ = ["SEEDS_FOR_IQM", "Interval", "interval", "iqm", "paired_difference"]

SEEDS_FOR_IQM = 4  # with fewer seeds no quartile can be dropped: the IQM equals the mean
_RESAMPLES = 2_000
_BATCH_NUMBERS = 20_000_000  # values per batch, which bounds the memory for long tables


@dataclass(frozen=True)
class Interval:
    """A mean (of all values, or of the middle half of the seeds) and its 95% CI.

    Attributes:
        mean: the point estimate.
        low: lower end.
        high: upper end.
    """

    mean: float
    low: float
    high: float

    def to_json(self, name: str = "") -> dict[str, Any]:
        """Return `mean` and `ci95`, or `NAME_mean` and `NAME_ci95`."""
        prefix = f"{name}_" if name else ""
        return {f"{prefix}mean": self.mean, f"{prefix}ci95": [self.low, self.high]}

    def simultaneous(self, comparisons: int) -> Interval:
        """Return the interval widened so that this many of its kind hold at once with 95% (Bonferroni).

        Both ends are moved away from the mean by the ratio of the two normal quantiles. The difference to
        the best of several methods on the same rows needs it, because the best is partly luck.

        Args:
            comparisons: number of differences that the best one was selected from, at least 1.

        Source: Hsu 1996, Multiple Comparisons, section 4.1 (comparisons with the best).

        >>> Interval(0.0, -1.0, 1.0).simultaneous(10)
        Interval(mean=0.0, low=-1.432..., high=1.432...)
        """
        wider = float(norm.ppf(1.0 - 0.025 / comparisons) / norm.ppf(0.975))
        low, high = self.mean - wider * (self.mean - self.low), self.mean + wider * (self.high - self.mean)
        return Interval(self.mean, low, high)


def interval(values: np.ndarray, seed: int = 0) -> Interval:
    """Return the mean over seeds and queries, with a 95% percentile bootstrap interval.

    Queries and seeds are resampled independently, and every seed gets the same queries, so the interval
    covers new queries and new seeds. It is widened for few seeds, see above.

    Args:
        values: [S, T] float, one row per training seed, one column per test query.
        seed: random seed of the bootstrap.
    """
    return _resampled(values, lambda by_seed: by_seed.mean(axis=-1), seed)


def iqm(values: np.ndarray, seed: int = 0) -> Interval:
    """Return the interquartile mean over seeds of each seed's mean over queries, with a 95% CI.

    Outlier seeds do not affect it. With fewer than 4 seeds it equals `interval`. Queries are not trimmed,
    because outcomes of 0 and 1 have no middle half. Seeds are resampled within method, compute weight and
    table (the strata of Agarwal et al.); queries are resampled too, as for the mean.

    Args:
        values: [S, T] float, one row per training seed, one column per test query.
        seed: random seed of the bootstrap.

    Source: Agarwal et al. 2021, section 4.2, https://arxiv.org/abs/2108.13264.

    >>> iqm(np.array([[0.0], [0.5], [0.7], [1.0]])).mean
    0.6
    """
    if len(values) < SEEDS_FOR_IQM:
        return interval(values, seed)
    return _resampled(values, lambda by_seed: trim_mean(by_seed, 0.25, axis=-1), seed)


def paired_difference(one: np.ndarray, two: np.ndarray, seed: int = 0) -> Interval:
    """Return the mean of `one - two` with its 95% CI, paired: both use the same resampled seeds and queries.

    Args:
        one: [S, T] float.
        two: [S, T] float, with the same seeds and queries in the same order.
        seed: random seed of the bootstrap.
    """
    assert one.shape == two.shape
    return interval(np.asarray(one, dtype=np.float64) - two, seed)


def _resampled(values: np.ndarray, combine: Callable[[np.ndarray], Any], seed: int) -> Interval:
    """Apply a statistic to the seeds' means [..., S], for the data and each bootstrap resample."""
    values = np.asarray(values, dtype=np.float64)
    seeds, queries = values.shape
    centre = float(combine(values.mean(axis=1)))
    if np.ptp(values) == 0.0 or queries < 2:
        return Interval(centre, centre, centre)
    if (values == values[0]).all():
        values, seeds = values[:1], 1  # a method without randomness

    def statistic(*indices: np.ndarray, axis: int = -1) -> np.ndarray:
        if seeds == 1:
            return values[0][indices[0]].mean(axis=axis)
        query, run = indices
        return combine(values[run[..., :, None], query[..., None, :]].mean(axis=-1))

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
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    wider = _few_seeds(values) if seeds > 1 else 1.0
    return Interval(centre, centre - wider * (centre - low), centre + wider * (high - centre))


def _few_seeds(values: np.ndarray) -> float:
    """Return the ratio of the t interval's width to that of the bootstrap, of values [S, T], S > 1."""
    seeds, queries = values.shape
    between_seeds = float(values.mean(axis=1).var(ddof=1)) / seeds
    between_queries = float(values.mean(axis=0).var(ddof=1)) / queries
    total = between_seeds + between_queries
    resampled = between_seeds * (seeds - 1) / seeds + between_queries
    if resampled == 0.0:
        return 1.0
    freedom = total**2 / (between_seeds**2 / (seeds - 1) + between_queries**2 / (queries - 1))
    return float(np.sqrt(total / resampled) * t.ppf(0.975, freedom) / norm.ppf(0.975))
