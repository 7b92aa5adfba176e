"""A new expert's quality on every query after some probes: the posterior of its coefficients, in closed form.

The model and its prior are in `newcomer_prior.py`. With the probes' covariates X and residuals r = y - m,

    V = (S^-1 + X'X / noise)^-1,    E[b] = b_0 + V X' r / noise

A router reads features, not other experts' outcomes, so what counts is the mean over the queries of a region:
the mean of x . b over its rows, which uses the existing experts' outcomes on all rows as control variates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .newcomer_prior import PriorVariances

__all__ = ["Posterior", "posterior", "region_means", "uncertainty"]


class Posterior(NamedTuple):
    """Normal distribution of a new expert's coefficients.

    Attributes:
        mean: [P] float64.
        covariance: [P, P] float64.
        noise: variance of a single outcome.
    """

    mean: np.ndarray
    covariance: np.ndarray
    noise: float


def posterior(x: np.ndarray, y: np.ndarray, variances: PriorVariances, regions: int) -> Posterior:
    """Return the distribution of the coefficients given probes; the prior if there are none.

    Args:
        x: [R, P] float64, rows of `covariates` that were probed.
        y: [R] float, the new expert's quality on them.
        variances: of the prior and of the noise.
        regions: G.
    """
    prior = variances.of_coefficients(regions, x.shape[1] - 2 - regions)
    root = np.sqrt(prior)
    system = np.eye(len(root)) + root[:, None] * (x.T @ x) * root / variances.noise
    covariance = root[:, None] * np.linalg.inv(system) * root
    start = np.zeros(len(root))
    start[0] = 1.0
    mean = start + covariance @ (x.T @ (np.asarray(y, dtype=np.float64) - x[:, 0])) / variances.noise
    return Posterior(mean, (covariance + covariance.T) / 2.0, variances.noise)


def region_means(x: np.ndarray, region: np.ndarray, regions: int) -> np.ndarray:
    """Return the mean of the covariates over the rows of each region, [G, P] float64.

    A region without rows gets the mean of all rows.
    """
    one_hot = np.eye(regions)[region]
    count = one_hot.sum(axis=0)[:, None]
    return np.where(count > 0, one_hot.T @ x / np.maximum(count, 1.0), x.mean(axis=0))


def uncertainty(means: np.ndarray, known: Posterior) -> np.ndarray:
    """Return the standard deviation of the mean quality in each region, [G] float64.

    Args:
        means: [G, P] float64, from `region_means`.
        known: of the new expert.
    """
    variance = np.einsum("gp,pq,gq->g", means, known.covariance, means)
    return np.sqrt(np.maximum(variance, 0.0))
