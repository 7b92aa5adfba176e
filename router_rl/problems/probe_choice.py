"""Which queries to ask a new expert, so that the decisions that hang on its answers become certain.

In region g the new expert is used if its advantage d_g over the best existing expert is positive. If the
posterior of d_g is normal with standard deviation s_g, knowing it would be worth

    p_g (E[max(d_g, 0)] - max(E[d_g], 0)) = p_g s_g f(|d_g| / s_g),    f(z) = pdf(z) - z cdf(-z)

p_g is the region's share of the queries. The derivative by the variance, p_g pdf(d_g / s_g) / (2 s_g),
weights the regions, and keeps its expectation while probes arrive. Each further query is the one that reduces
the weighted variance most; its own outcome is not needed for that, so a whole batch is chosen at once.

Source: expected value of perfect information, Raiffa and Schlaifer 1961, chapter 5.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from .newcomer import Newcomer
from .newcomer_posterior import Posterior, uncertainty

__all__ = ["chosen_probes", "decision_weights", "next_probes", "value_of_information"]

_TINY = 1e-9  # of a region that is decided, so that there is always an order
_CANDIDATES = 8  # more choose extreme rows, where a linear model is least true


def next_probes(
    new: Newcomer, rival: np.ndarray, price: float, rows: np.ndarray, count: int, seed: int = 0
) -> np.ndarray:
    """Return the queries to ask a new expert next, [count] int64, best first; all that are left if fewer.

    Args:
        new: what its answers so far say.
        rival: [G] float64, utility in each region of the experts that a router uses now.
        price: utility per unit of cost.
        rows: [M] int64, rows that may be asked; those that it answered are left out.
        count: number of queries.
        seed: of the candidates.
    """
    left = np.setdiff1d(rows, new.answers.rows)
    weights = decision_weights(_advantage(new, rival, price), new.means, new.share, new.known)
    rng = np.random.default_rng([seed, len(new.answers.rows)])
    count = min(count, len(left))
    return left[chosen_probes(new.x[left], new.means, weights, new.known, count, rng, _CANDIDATES)]


def value_of_information(new: Newcomer, rival: np.ndarray, price: float) -> float:
    """Return the utility per query that knowing the new expert's mean in every region would add.

    Args:
        new, rival, price: as for `next_probes`.
    """
    deviation = np.maximum(uncertainty(new.means, new.known), 1e-12)
    distance = np.abs(_advantage(new, rival, price)) / deviation
    return float(new.share @ (deviation * (norm.pdf(distance) - distance * norm.cdf(-distance))))


def decision_weights(
    advantage: np.ndarray, means: np.ndarray, share: np.ndarray, known: Posterior
) -> np.ndarray:
    """Return how much less variance is worth in each region, [G] float64 above 0.

    Args:
        advantage: [G] float64, expected utility of the new expert minus that of the best existing one.
        means: [G, P] float64, from `region_means`.
        share: [G] float64, share of the queries.
        known: of the new expert.
    """
    deviation = np.maximum(uncertainty(means, known), 1e-12)
    return share * (norm.pdf(advantage / deviation) / deviation + _TINY)


def chosen_probes(
    x: np.ndarray,
    means: np.ndarray,
    weights: np.ndarray,
    known: Posterior,
    count: int,
    rng: np.random.Generator,
    candidates: int,
) -> np.ndarray:
    """Return rows to ask next, [count] int64, distinct, best first.

    Each row is the best of some random candidates: rows that are extreme under the linear model are no better
    than others if it is only approximately true.

    Args:
        x: [M, P] float64, covariates of the rows that may be asked, M at least `count`.
        means: [G, P] float64, from `region_means`.
        weights: [G] float64, from `decision_weights`.
        known: of the new expert, after the probes so far.
        count: number of rows.
        rng: source of the candidates.
        candidates: number of random candidates for each row; as many as there are: the best of all rows.
    """
    covariance = known.covariance.copy()
    left = np.arange(len(x))
    chosen: list[int] = []
    for _ in range(count):
        places = np.arange(len(left))
        if candidates < len(left):
            places = rng.choice(len(left), candidates, replace=False)
        spread = x[left[places]] @ covariance
        variance = np.einsum("cp,cp->c", spread, x[left[places]]) + known.noise
        gain = (spread @ means.T) ** 2 @ weights / variance
        best = int(gain.argmax())
        chosen.append(int(left[places[best]]))
        covariance -= np.outer(spread[best], spread[best]) / variance[best]
        left = np.delete(left, places[best])
    return np.array(chosen, dtype=np.int64)


def _advantage(new: Newcomer, rival: np.ndarray, price: float) -> np.ndarray:
    """Return the expected utility of the new expert in each region minus that of its rival, [G] float64."""
    regions = len(new.share)
    count = np.maximum(np.bincount(new.region, minlength=regions), 1)
    cost = np.bincount(new.region, weights=new.cost, minlength=regions) / count
    return new.means @ new.known.mean - price * cost - rival
