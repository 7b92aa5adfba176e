"""A new expert's cost on every query, from the probes: a ratio to the cost of the existing experts.

A long prompt is expensive for every expert. The base of query t is the mean over the existing experts of
their cost on t over their mean cost. The new expert costs a constant times the base, and the constant of a
region is shrunk to that of all probes (a ratio estimator, Cochran 1977, Sampling Techniques, chapter 6).
"""

from __future__ import annotations

import numpy as np

__all__ = ["STRENGTH", "imputed_cost"]

STRENGTH = 5.0  # probes that the ratio of all regions counts for in each region


def imputed_cost(
    cost: np.ndarray, region: np.ndarray, regions: int, probed: np.ndarray, measured: np.ndarray
) -> np.ndarray:
    """Return the new expert's expected cost on every query, [T] float64.

    Args:
        cost: [T, N] float, cost of the existing experts.
        region: [T] int, 0 to G - 1.
        regions: G.
        probed: [R] int, rows that were probed, at least one.
        measured: [R] float, the new expert's cost on them.

    >>> old = np.array([[1.0], [3.0]])
    >>> imputed_cost(old, np.array([0, 0]), 1, np.array([0]), np.array([0.5]))
    array([0.5, 1.5])
    """
    cost = np.asarray(cost, dtype=np.float64)
    mean = cost.mean(axis=0)
    relative = np.where(mean > 0, cost / np.where(mean > 0, mean, 1.0), 1.0)
    base = relative.mean(axis=1)
    measured = np.asarray(measured, dtype=np.float64)
    paid = np.bincount(region[probed], weights=measured, minlength=regions)
    taken = np.bincount(region[probed], weights=base[probed], minlength=regions)
    overall = paid.sum() / taken.sum() if taken.sum() > 0 else 0.0
    ratio = (paid + STRENGTH * overall) / (taken + STRENGTH)
    return base * ratio[region]
