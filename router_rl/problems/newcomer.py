"""A new expert's outcomes on every query of a table, from the queries that it answered.

Quality comes from the posterior of `newcomer_posterior.py`, cost from the ratio of `newcomer_cost.py`. The
estimates are smooth: a router that is fitted to them reads their means over queries alike. `cautious` lowers
the quality by a part of the standard deviation of the region's mean, so that a router uses the new expert
only where it is credibly better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from .newcomer_cost import imputed_cost
from .newcomer_posterior import Posterior, posterior, region_means, uncertainty
from .newcomer_prior import PriorVariances, covariates

__all__ = ["CAUTION", "Answers", "Newcomer", "Pool", "in_range", "newcomer"]

CAUTION = 0.1  # standard deviations by which the quality is lowered


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool:
    """What the existing experts did on T queries.

    Attributes:
        quality: [T, N] float.
        cost: [T, N] float, in the table's unit.
        region: [T] int64, region of each query, 0 to G - 1.
        regions: G.
    """

    quality: np.ndarray
    cost: np.ndarray
    region: np.ndarray
    regions: int

    def take(self, rows: np.ndarray) -> Pool:
        """Return some rows of the pool."""
        return Pool(
            quality=self.quality[rows],
            cost=self.cost[rows],
            region=self.region[rows],
            regions=self.regions,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """Queries that the new expert answered; there may be none.

    Attributes:
        rows: [R] int64, distinct rows of the pool.
        quality: [R] float.
        cost: [R] float, in the table's unit.
    """

    rows: np.ndarray
    quality: np.ndarray
    cost: np.ndarray

    @classmethod
    def none(cls) -> Answers:
        """Return no answers."""
        return cls(rows=np.empty(0, dtype=np.int64), quality=np.empty(0), cost=np.empty(0))


@dataclass(frozen=True, eq=False, kw_only=True)
class Newcomer:
    """A new expert's estimated outcomes.

    Attributes:
        x: [T, P] float64, covariates of each query.
        region: [T] int64.
        means: [G, P] float64, mean covariates of each region.
        share: [G] float64, share of the queries in each region.
        known: distribution of the expert's coefficients.
        cost: [T] float64, measured where it answered, else expected.
        answers: its answers.
    """

    x: np.ndarray
    region: np.ndarray
    means: np.ndarray
    share: np.ndarray
    known: Posterior
    cost: np.ndarray
    answers: Answers

    def expected(self) -> np.ndarray:
        """Return the quality on each query, measured where it answered, else expected; [T] float64."""
        return self._quality(0.0)

    def cautious(self) -> np.ndarray:
        """Return the quality on each query, measured where it answered, else a cautious estimate; [T]."""
        return self._quality(CAUTION)

    def lowered(self) -> np.ndarray:
        """Return how far the cautious estimate is below the expected one, [T] float64; 0 where measured."""
        return self.expected() - self.cautious()

    def _quality(self, caution: float) -> np.ndarray:
        target = self.means @ self.known.mean - caution * uncertainty(self.means, self.known)
        quality = self.x @ self.known.mean
        for region in np.unique(self.region):
            rows = self.region == region
            quality[rows] = in_range(quality[rows], float(target[region]))
        quality[self.answers.rows] = self.answers.quality
        return quality


def newcomer(pool: Pool, answers: Answers, variances: PriorVariances) -> Newcomer:
    """Estimate a new expert's outcomes on every query.

    Args:
        pool: outcomes of the existing experts.
        answers: the new expert's answers; without any its quality is that of an average expert, and its cost
            the mean of the existing experts.
        variances: of the prior, from `estimated_variances`.
    """
    x = covariates(pool.quality, pool.region, pool.regions)
    cost = np.asarray(pool.cost, dtype=np.float64).mean(axis=1)
    if len(answers.rows):
        cost = imputed_cost(pool.cost, pool.region, pool.regions, answers.rows, answers.cost)
        cost[answers.rows] = answers.cost
    return Newcomer(
        x=x,
        region=pool.region,
        means=region_means(x, pool.region, pool.regions),
        share=np.bincount(pool.region, minlength=pool.regions) / len(pool.region),
        known=posterior(x[answers.rows], answers.quality, variances, pool.regions),
        cost=cost,
        answers=answers,
    )


def in_range(values: np.ndarray, mean: float) -> np.ndarray:
    """Return values shifted and clipped to [0, 1] so that they have a given mean, itself clipped to [0, 1].

    >>> in_range(np.array([0.2, 0.5, 1.1]), 0.6)
    array([0.25, 0.55, 1.  ])
    """
    mean = min(max(mean, 0.0), 1.0)
    low, high = -float(values.max()) - 1.0, 2.0 - float(values.min())

    def excess(shift: float) -> float:
        return float((values + shift).clip(0.0, 1.0).mean()) - mean

    shift: Any = brentq(excess, low, high, xtol=1e-12)
    return (values + float(shift)).clip(0.0, 1.0)
