"""Exact propensities of exploration (epsilon-greedy, tempered softmax) and of a canary; pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

__all__ = ["affordable", "epsilon_greedy_propensities", "mixed", "softmax_propensities"]


def epsilon_greedy_propensities(best: int, may: Sequence[bool], epsilon: float) -> np.ndarray:
    """Return the probability of each expert under epsilon-greedy: uniform with probability epsilon.

    Args:
        best: the router's choice; it can always be chosen.
        may: [N], whether an expert may be explored.
        epsilon: probability of exploring, from 0 to 1.

    Returns:
        [N] float64; sums to 1.

    >>> epsilon_greedy_propensities(0, [True, True, False, True], 0.3).round(3).tolist()
    [0.8, 0.1, 0.0, 0.1]
    """
    eligible = np.asarray(may, dtype=np.float64)
    eligible[best] = 1.0
    probabilities = epsilon * eligible / eligible.sum()
    probabilities[best] += 1.0 - epsilon
    return probabilities


def softmax_propensities(
    best: int, may: Sequence[bool], scores: np.ndarray, temperature: float
) -> np.ndarray:
    """Return the probability of each expert under a softmax of scores / temperature among eligible experts.

    Args:
        best: the router's choice; it can always be chosen.
        may: [N], whether an expert may be explored.
        scores: [N] float, higher is better; NaN for experts that are not scored: uniform among the eligible.
        temperature: in the unit of the scores, over 0. Near 0 the best eligible score is always chosen.

    Returns:
        [N] float64; sums to 1.

    >>> softmax_propensities(0, [True, True, False], np.array([2.0, 1.0, 5.0]), 1.0).round(3).tolist()
    [0.731, 0.269, 0.0]
    """
    eligible = np.array(may, dtype=bool)
    eligible[best] = True
    logits = np.asarray(scores, dtype=np.float64) / temperature
    if np.isnan(logits[eligible]).any():
        logits = np.zeros(len(eligible))
    return softmax(np.where(eligible, logits, -np.inf))


def mixed(first: np.ndarray, second: np.ndarray, fraction: float) -> np.ndarray:
    """Return the probabilities [N] of a canary: the second policy decides with probability `fraction`.

    Args:
        first: [N] float64, sums to 1.
        second: [N] float64, sums to 1.
        fraction: from 0 to 1.

    >>> mixed(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 0.25).tolist()
    [0.75, 0.25]
    """
    return (1.0 - fraction) * first + fraction * second


def affordable(expected_usd: Sequence[float], best: int, extra_usd: float | None) -> list[bool]:
    """Return for each expert whether it costs at most `extra_usd` more than the router's choice, [N].

    Args:
        expected_usd: [N], expected cost of the request with each expert, US dollars.
        best: the router's choice.
        extra_usd: maximum extra cost, US dollars; None: no limit.

    >>> affordable([0.1, 0.2, 0.9], 1, 0.1)
    [True, True, False]
    """
    if extra_usd is None:
        return [True] * len(expected_usd)
    return [cost <= expected_usd[best] + extra_usd for cost in expected_usd]
