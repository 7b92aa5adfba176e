"""The classifier that infers a query's group: multinomial logistic regression, calibrated by a temperature.

Source: temperature scaling, Guo et al. 2017, section 4.2, https://arxiv.org/abs/1706.04599.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

__all__ = ["fit_group_classifier", "fit_temperature"]

_STEPS = 200  # of L-BFGS
_TEMPERATURES = (0.1, 100.0)
_ABSENT = -30.0  # logit of a group without rows


def fit_group_classifier(
    x: Any, group: np.ndarray, groups: int, *, inverse_penalty: float, tolerance: float = 1e-4
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight [G, D] and bias [G] float64; a group without rows gets a logit far below the others.

    Args:
        x: [T, D] float, an array or a sparse matrix.
        group: [T] int64, 0 to G - 1.
        groups: G.
        inverse_penalty: C of scikit-learn's `LogisticRegression`.
        tolerance: of the gradient, at which the fit stops.
    """
    weight, bias = np.zeros((groups, x.shape[1])), np.full(groups, _ABSENT)
    present = np.unique(group)
    if len(present) == 1:
        bias[present] = 0.0
        return weight, bias
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model: Any = LogisticRegression(C=inverse_penalty, max_iter=_STEPS, tol=tolerance).fit(x, group)
    if len(present) == 2:  # scikit-learn has one logit, of the second group
        bias[present] = (0.0, float(model.intercept_[0]))
        weight[present[1]] = model.coef_[0]
    else:
        weight[present], bias[present] = model.coef_, model.intercept_
    return weight, bias


def fit_temperature(logits: np.ndarray, group: np.ndarray) -> float:
    """Return the temperature, from 0.1 to 100, that minimises the log-loss of held-out logits.

    Args:
        logits: [T, G] float64, of classifiers that were not fitted to the row.
        group: [T] int64, the true group of each row.
    """
    rows = np.arange(len(group))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, group].mean())

    low, high = np.log(_TEMPERATURES)
    best: Any = minimize_scalar(loss, bounds=(low, high), method="bounded")
    return float(np.exp(best.x))
