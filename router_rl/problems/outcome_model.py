"""Outcome model of a decision log: a ridge regression per expert.

Predictions of logged rows are cross-fitted (Chernozhukov et al. 2018, definition 3.1,
https://doi.org/10.1111/ectj.12097): each row is predicted by models that were not fitted to it. This keeps
doubly robust estimates unbiased and their intervals valid.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["MIN_ROWS", "RidgeFit", "cross_fitted", "fit_ridge", "predicted", "standardised"]

_PENALTIES = (1.0, 10.0, 100.0, 1_000.0)
_FOLDS = 5
MIN_ROWS = 10  # with fewer decisions, an expert is predicted by the mean of its outcomes


def cross_fitted(features: np.ndarray, action: np.ndarray, outcome: np.ndarray, experts: int) -> np.ndarray:
    """Predict every expert's outcome on the logged queries, by models fitted to the other folds.

    Args:
        features: [T, D] float.
        action: [T] int64, selected expert.
        outcome: [T, M] float, its outcome: M numbers, such as quality and cost.
        experts: N.

    Returns:
        [T, N, M] float64, clipped to the range of the fitted outcomes.
    """
    # Folds by row number, without randomness, so that the same log gives the same numbers.
    fold = np.arange(len(action)) % min(_FOLDS, len(action))
    predictions = np.empty((len(action), experts, outcome.shape[1]))
    for one in np.unique(fold):
        held = fold == one
        known = ~held if len(action) > 1 else held
        predictions[held] = predicted(features[known], action[known], outcome[known], experts, features[held])
    return predictions


def predicted(
    features: np.ndarray, action: np.ndarray, outcome: np.ndarray, experts: int, at: np.ndarray
) -> np.ndarray:
    """Predict every expert's outcome on other queries.

    The penalty of each expert and outcome has the lowest leave-one-out error. An expert that was never
    selected is predicted by the mean of all outcomes.

    Args:
        features: [T, D] float.
        action: [T] int64, selected expert.
        outcome: [T, M] float, its outcome.
        experts: N.
        at: [S, D] float, features of the queries to predict.

    Returns:
        [S, N, M] float64.
    """
    x, goal = standardised(features, features, at)
    predictions = np.empty((len(at), experts, outcome.shape[1]))
    for expert in range(experts):
        rows = action == expert
        if rows.sum() < MIN_ROWS:
            known = outcome[rows if rows.any() else slice(None)]
            predictions[:, expert] = known.mean(axis=0, dtype=np.float64)
            continue
        fit = fit_ridge(x[rows], outcome[rows].astype(np.float64))
        predictions[:, expert] = fit.level + (goal - fit.centre) @ fit.weight
    return predictions.clip(outcome.min(axis=0), outcome.max(axis=0))


def standardised(features: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Return rows, float64, with the shift and scale that give `features` [T, D] mean 0 and deviation 1."""
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 1e-6, 1.0 / np.maximum(deviation, 1e-6), 0.0)
    return [(rows - mean) * scale for rows in others]


class RidgeFit(NamedTuple):
    """A ridge regression; the prediction at x is `level + (x - centre) @ weight`.

    Attributes:
        centre: [D] float64, mean of the fitted x.
        level: [M] float64, mean of the fitted outcomes.
        weight: [D, M] float64.
        residual: [R, M] float64, outcome minus prediction of each fitted row by the regression without it.
    """

    centre: np.ndarray
    level: np.ndarray
    weight: np.ndarray
    residual: np.ndarray


def fit_ridge(x: np.ndarray, y: np.ndarray) -> RidgeFit:
    """Fit a ridge regression of each outcome; its penalty has the lowest leave-one-out error.

    The intercept is not penalized. The leave-one-out residual is the residual divided by 1 minus the
    leverage, so all penalties need one decomposition (Golub, Heath, Wahba 1979,
    https://doi.org/10.1080/00401706.1979.10489751).

    Args:
        x: [R, D] float64.
        y: [R, M] float64.
    """
    centre, level = x.mean(axis=0), y.mean(axis=0)
    u, s, v = np.linalg.svd(x - centre, full_matrices=False)
    along = u.T @ (y - level)
    kept = s**2 / (s**2 + np.array(_PENALTIES)[:, None])  # [P, D]
    leverage = 1.0 / len(x) + u**2 @ kept.T  # [R, P], below 1 as every penalty is above 0
    residual = (y - level)[:, None] - np.einsum("rd,pd,dm->rpm", u, kept, along)
    left_out = residual / (1.0 - leverage)[:, :, None]
    error = (left_out**2).mean(axis=0)  # [P, M]
    chosen = error.argmin(axis=0)
    best = kept[chosen].T  # [D, M]
    # Constant directions have s = 0 and get no weight.
    weight = v.T @ (best / np.where(s > 0, s, 1.0)[:, None] * along)
    return RidgeFit(centre, level, weight, left_out[:, chosen, np.arange(y.shape[1])])
