"""Bayesian linear regression of each expert's utility on top of a router; pure functions.

With features x, standardised by the decisions so far, and the served router's logit l_e, `z = (1, x, l_e)`:

    u_e = l_e + delta_e . z + noise,    delta_e ~ N(0, I / penalty),    u = score - cost_weight * US dollars

so the learner starts as the router and moves as far as the outcomes of each expert ask for. The weight of
the logit learns the scale of logits that are no utilities. The sums `sum z z^T`, `sum z score` and
`sum z cost` of raw features hold everything that was observed: a score that is replaced changes them by the
difference; cost weight, penalty and standardisation can change later.

Sources: Li et al. 2010, algorithm 1, https://arxiv.org/abs/1003.0146 (prior mean 0, features as given).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["LinearPosterior", "Sums", "added", "inputs_of", "no_sums", "posterior_of", "predicted_utility"]

_CLIP = 5.0  # standard deviations: features far from all scored decisions do not rule a decision


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the scored decisions of each expert, of inputs z with P entries.

    Attributes:
        outer: [N, P, P] float64, of `z z^T`; its first entry counts the decisions.
        score: [N, P] float64, of z times score.
        cost: [N, P] float64, of z times US dollars.
    """

    outer: np.ndarray
    score: np.ndarray
    cost: np.ndarray

    @property
    def decisions(self) -> np.ndarray:
        """[N] float64, scored decisions of each expert."""
        return self.outer[:, 0, 0]


@dataclass(frozen=True, eq=False)
class LinearPosterior:
    """What is known of every expert's utility.

    Attributes:
        shift: [P] float64, subtracted from inputs.
        scale: [P] float64, then multiplied; 0 for a feature that was always the same.
        mean: [N, P] float64, of delta.
        covariance: [N, P, P] float64, of delta, for noise of variance 1.
    """

    shift: np.ndarray
    scale: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray


def no_sums(experts: int, features: int) -> Sums:
    """Return the sums of no decisions, for N experts and D features."""
    size = features + 2
    return Sums(np.zeros((experts, size, size)), np.zeros((experts, size)), np.zeros((experts, size)))


def inputs_of(features: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the inputs [T, P] of an expert: 1, features [T, D], its logit [T]."""
    return np.concatenate([np.ones((len(features), 1)), features, logits[:, None]], axis=1, dtype=np.float64)


def added(
    sums: Sums, expert: np.ndarray, z: np.ndarray, score: np.ndarray, before: np.ndarray, cost: np.ndarray
) -> Sums:
    """Return the sums with T more scores, in any order.

    Args:
        sums: so far.
        expert: [T] int64, who answered.
        z: [T, P] float64, inputs of that expert.
        score: [T] float64.
        before: [T] float64, the score that is replaced; NaN for the first of a decision.
        cost: [T] float64, US dollars.
    """
    outer, scores, costs = sums.outer.copy(), sums.score.copy(), sums.cost.copy()
    first = np.isnan(before)
    change = score - np.where(first, 0.0, before)
    for one in np.unique(expert):
        mine = expert == one
        new = z[mine & first]
        outer[one] += new.T @ new
        scores[one] += change[mine] @ z[mine]
        costs[one] += cost[mine & first] @ new
    return Sums(outer, scores, costs)


def posterior_of(sums: Sums, cost_weight: float, penalty: float) -> LinearPosterior:
    """Return the posterior, given everything that was observed.

    Args:
        sums: of all scored decisions.
        cost_weight: utility per US dollar.
        penalty: precision of the prior, above 0: as many decisions as the router itself counts for.
    """
    shift, scale = _standardisation(sums.outer.sum(axis=0))
    # What the router does not explain: u - l, where l is the last input.
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
    """Return mean and standard deviation [N] of each expert's utility on one query.

    Args:
        posterior: of the utilities.
        features: [D] float, finite.
        logits: [N] float, finite: the router's.
    """
    x = (features - posterior.shift[1:-1]) * posterior.scale[1:-1]
    z = np.empty(posterior.mean.shape)
    z[:, 0], z[:, 1:-1], z[:, -1] = 1.0, x.clip(-_CLIP, _CLIP), logits
    mean = logits + (posterior.mean * z).sum(axis=1)
    variance = ((posterior.covariance @ z[:, :, None])[:, :, 0] * z).sum(axis=1)
    return mean, np.sqrt(variance.clip(min=0.0))


def _standardisation(outer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shift and scale [P] from sums [P, P] over all decisions; intercept and logit are kept."""
    shift, scale = np.zeros(len(outer)), np.ones(len(outer))
    count = max(outer[0, 0], 1.0)
    mean = outer[0, 1:-1] / count
    deviation = np.sqrt((np.diag(outer)[1:-1] / count - mean**2).clip(min=0.0))
    varies = deviation > 1e-6 * np.maximum(1.0, np.abs(mean))
    shift[1:-1], scale[1:-1] = mean, np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0)
    return shift, scale
