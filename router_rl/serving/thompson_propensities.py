"""Propensities of Thompson sampling: the probability that each expert's sample is the largest.

Thompson sampling draws a utility for each expert, `u_e ~ N(m_e, s_e^2)`, and chooses the largest:

    P(e) = integral of  prod_{j != e} Phi((u - m_j) / s_j)  dPhi((u - m_e) / s_e)

The integrals are computed first and the expert is drawn from them, so the logged propensity is exactly that
of the draw, whatever the error of the quadrature.

Source: Agrawal and Goyal 2013, algorithm 1, https://arxiv.org/abs/1209.3352.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

__all__ = ["thompson_propensities"]

# The grid has points within 8 standard deviations of each expert's mean, so it is fine where an integrand is
# steep. With many experts, each has fewer points, so that a decision among 30 takes about 1 ms.
_DEVIATIONS = 8.0
_POINTS, _MIN_POINTS, _MAX_POINTS = 640, 33, 129


def thompson_propensities(mean: np.ndarray, deviation: np.ndarray, may: Sequence[bool]) -> np.ndarray:
    """Return the probability that each expert's sampled utility is the largest among the allowed experts.

    Ties of experts without variance go to the lowest id.

    Args:
        mean: [N] float64.
        deviation: [N] float64, standard deviations, 0 or more.
        may: [N], whether an expert may be chosen; at least one.

    Returns:
        [N] float64; sums to 1, and is 0 where an expert may not be chosen.

    >>> thompson_propensities(np.array([0.0, 0.0, 9.0]), np.ones(3), [True, True, False]).round(6)
    array([0.5, 0.5, 0. ])
    """
    arms = _contenders(mean, deviation, np.flatnonzero(may))
    probabilities = np.zeros(len(mean))
    if len(arms) == 1:
        probabilities[arms] = 1.0
        return probabilities
    m, s = mean[arms], deviation[arms]
    count = min(max(_POINTS // len(arms), _MIN_POINTS), _MAX_POINTS)
    steps = np.linspace(-_DEVIATIONS, _DEVIATIONS, count)
    points = np.sort((m + s * steps[:, None]).ravel())
    below = np.empty((len(points), len(arms)))  # P(u_j <= point)
    for at, (centre, width) in enumerate(zip(m, s, strict=True)):
        if width > 0.0:
            below[:, at] = ndtr((points - centre) / width)
        else:  # without variance: all mass lies between its first two (equal) points
            below[:, at] = np.arange(len(points)) > np.searchsorted(points, centre)
    others = _products_of_others(below)
    shares = (0.5 * (others[1:] + others[:-1]) * np.diff(below, axis=0)).sum(axis=0)
    probabilities[arms] = shares / shares.sum()
    return probabilities


def _contenders(mean: np.ndarray, deviation: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """Return the experts that can be the best; of those without variance, only the best."""
    constant = arms[deviation[arms] == 0.0]
    if not len(constant):
        return arms
    best = constant[mean[constant].argmax()]
    return arms[(deviation[arms] > 0.0) | (arms == best)]


def _products_of_others(below: np.ndarray) -> np.ndarray:
    """Return the product of all other columns for each column of [G, N], without dividing by zeros."""
    left, right = np.ones_like(below), np.ones_like(below)
    left[:, 1:] = below[:, :-1].cumprod(axis=1)
    right[:, :-1] = below[:, :0:-1].cumprod(axis=1)[:, ::-1]
    return left * right
