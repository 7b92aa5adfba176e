"""Bayesian linear regression of each expert's utility on top of a router; pure functions.

With features x, standardised over the decisions so far, and the served router's logit l_e, `z = (1, x, l_e)`:

    u_e = l_e + delta_e . z + noise,    delta_e ~ N(0, I / penalty),    u = score - cost_weight * US dollars

The learner starts as the router, and the outcomes of each expert update delta_e. The weight of the logit
learns the scale of logits that are not utilities. The sums `sum z z^T`, `sum z score` and `sum z cost` of raw
features are sufficient statistics: a replaced score changes them by the difference, and cost weight, penalty
and standardisation can change later.

Source: Li et al. 2010, algorithm 1, https://arxiv.org/abs/1003.0146 (prior mean 0, features as given).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "LinearPosterior",
    "Sums",
    "add_scores",
    "empty_sums",
    "inputs_of",
    "posterior_of",
    "predicted_utility",
]

_CLIP = 5.0  # standard deviations: limits the effect of features far from all scored decisions


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the scored decisions of each expert, of inputs z with P entries.

    Attributes:
        outer: [N, P, P] float64, sums of `z z^T`; the first entry is the number of decisions.
        score: [N, P] float64, sums of z times score.
        cost: [N, P] float64, sums of z times US dollars.
    """

    outer: np.ndarray
    score: np.ndarray
    cost: np.ndarray

    @property
    def decisions(self) -> np.ndarray:
        """Number of scored decisions of each expert, [N] float64."""
        return self.outer[:, 0, 0]


@dataclass(frozen=True, eq=False)
class LinearPosterior:
    """Posterior of delta of each expert.

    Attributes:
        shift: [P] float64, subtracted from the inputs.
        scale: [P] float64, multiplies the shifted inputs; 0 for a constant feature.
        mean: [N, P] float64, mean of delta.
        covariance: [N, P, P] float64, covariance of delta, for noise of variance 1.
    """

    shift: np.ndarray
    scale: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray


def empty_sums(experts: int, features: int) -> Sums:
    """Return the sums over no decisions, for N experts and D features."""
    size = features + 2
    return Sums(np.zeros((experts, size, size)), np.zeros((experts, size)), np.zeros((experts, size)))


def inputs_of(features: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the inputs z [T, P] of an expert: 1, features [T, D], its logit [T]."""
    return np.concatenate([np.ones((len(features), 1)), features, logits[:, None]], axis=1, dtype=np.float64)


def add_scores(
    sums: Sums, expert: np.ndarray, z: np.ndarray, score: np.ndarray, before: np.ndarray, cost: np.ndarray
) -> Sums:
    """Return the sums with T more scores, in any order.

    Args:
        sums: the sums so far.
        expert: [T] int64, the expert that answered.
        z: [T, P] float64, inputs of that expert.
        score: [T] float64, the new score.
        before: [T] float64, the score that is replaced; NaN for the first score of a decision.
        cost: [T] float64, US dollars.
    """
    outer, scores, costs = sums.outer.copy(), sums.score.copy(), sums.cost.copy()
    first = np.isnan(before)
    change = score - np.where(first, 0.0, before)
    for index in np.unique(expert):
        rows = expert == index
        new = z[rows & first]
        outer[index] += new.T @ new
        scores[index] += change[rows] @ z[rows]
        costs[index] += cost[rows & first] @ new
    return Sums(outer, scores, costs)


def posterior_of(sums: Sums, cost_weight: float, penalty: float) -> LinearPosterior:
    """Return the posterior given all scored decisions.

    Args:
        sums: sums over all scored decisions.
        cost_weight: utility per US dollar.
        penalty: precision of the prior, above 0; the router counts as much as this many decisions.
    """
    shift, scale = _standardisation(sums.outer.sum(axis=0))
    # The residual of the router: u - l, where l is the last input.
    target = sums.score - cost_weight * sums.cost - sums.outer[:, :, -1]
    lift = np.diag(scale)
    lift[:, 0] -= scale * shift  # the first input is 1
    outer = lift @ sums.outer @ lift.T
    covariance = np.linalg.inv(outer + penalty * np.eye(len(scale)))
    mean = np.einsum("npq,nq->np", covariance, target @ lift.T)
    return LinearPosterior(shift, scale, mean, covariance)


def predicted_utility(
    posterior: LinearPosterior, features: np.ndarray, logits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [N] and standard deviation [N] of each expert's utility for one query.

    Args:
        posterior: the posterior.
        features: [D] float, finite.
        logits: [N] float, finite, of the router.
    """
    x = (features - posterior.shift[1:-1]) * posterior.scale[1:-1]
    z = np.empty(posterior.mean.shape)
    z[:, 0], z[:, 1:-1], z[:, -1] = 1.0, x.clip(-_CLIP, _CLIP), logits
    mean = logits + (posterior.mean * z).sum(axis=1)
    variance = ((posterior.covariance @ z[:, :, None])[:, :, 0] * z).sum(axis=1)
    return mean, np.sqrt(variance.clip(min=0.0))


def _standardisation(outer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shift and scale [P] from sums [P, P] over all decisions; intercept and logit do not change."""
    shift, scale = np.zeros(len(outer)), np.ones(len(outer))
    count = max(outer[0, 0], 1.0)
    mean = outer[0, 1:-1] / count
    deviation = np.sqrt((np.diag(outer)[1:-1] / count - mean**2).clip(min=0.0))
    varies = deviation > 1e-6 * np.maximum(1.0, np.abs(mean))
    shift[1:-1], scale[1:-1] = mean, np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0)
    return shift, scale
