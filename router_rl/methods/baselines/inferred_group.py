"""Group lookup with an inferred group: each group's mean utilities, weighted by the group's probability.

A multinomial logistic regression infers the group from the features; its temperature is calibrated on
held-out folds. Unlike `group_label`, the router does not need the group of a query. Groups' means are shrunk
as those of `group_label` are.

Source: calibration by temperature, Guo et al. 2017, https://arxiv.org/abs/1706.04599.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from envs.reward import expert_utility
from experts import InputError

from ...problems.cross_fitting import held_out
from ...problems.routing.problem import RoutingProblem
from ...routing import LookupScorer, Router
from ..method import Method, Run
from .group_label import shrunken_means

__all__ = ["METHOD", "SPACE", "InferredGroupHyperparameters", "calibrated_temperature", "fit"]

_FOLDS = 3  # of the calibration
_STEPS = 200  # of L-BFGS
_TEMPERATURES = (0.1, 100.0)


@dataclass(frozen=True, kw_only=True)
class InferredGroupHyperparameters:
    """Hyperparameters of the lookup with an inferred group.

    Attributes:
        strength: shrinkage of a group's means to the overall means, in rows; at least 0.
        penalty: L2 penalty of the logistic regression on standardised features, per training row.
    """

    strength: float = 5.0
    penalty: float = 1e-2


SPACE = {"strength": (1.0, 5.0, 20.0, 100.0), "penalty": (1e-3, 1e-2, 1e-1)}


def fit(problem: RoutingProblem, hyperparameters: InferredGroupHyperparameters, run: Run) -> Router:
    """Fit and calibrate the classifier of the group, and store each group's mean utilities.

    Raises:
        InputError: the table has no groups.
    """
    if problem.train.group is None:
        raise InputError(
            "table",
            problem.train.source,
            "has no groups to infer",
            "add a `group` column, or use another method",
        )
    labels, group = np.unique(problem.train.group.astype(str), return_inverse=True)
    outcomes = problem.outcomes()
    utility = expert_utility(outcomes, problem.objective.compute_weight).double()
    rows = torch.from_numpy(group).to(problem.device)
    means = shrunken_means(utility, rows, len(labels), hyperparameters.strength)[:-1]
    values = problem.rule.lift(means, temperature=0.0)
    scorer = LookupScorer(outcomes.features.shape[1], values.shape[1], len(labels))
    router = problem.wrap(scorer)
    x = ((outcomes.features - scorer.shift) * scorer.scale).cpu().numpy()

    def classifier() -> tuple[np.ndarray, np.ndarray]:
        folds = held_out(problem.train, _FOLDS, run.seed)
        logits = np.zeros((len(x), len(labels)))
        for kept, away in folds:
            weight, bias = _classifier(x[kept], group[kept], len(labels), hyperparameters.penalty)
            logits[away] = x[away] @ weight.T + bias
        temperature = calibrated_temperature(logits, group)
        weight, bias = _classifier(x, group, len(labels), hyperparameters.penalty)
        return weight / temperature, bias / temperature

    weight, bias = problem.cached(("inferred_group", hyperparameters.penalty, run.seed), classifier)
    with torch.no_grad():
        scorer.weight.copy_(torch.from_numpy(weight))
        scorer.bias.copy_(torch.from_numpy(bias))
        scorer.values.copy_(values)
    return router.eval()


def calibrated_temperature(logits: np.ndarray, group: np.ndarray) -> float:
    """Return the temperature that minimises the log-loss of held-out logits, from 0.1 to 100.

    Args:
        logits: [T, G] float64, of classifiers that were not fitted to the row.
        group: [T] int64.
    """
    rows = np.arange(len(group))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, group].mean())

    low, high = np.log(_TEMPERATURES)
    best: Any = minimize_scalar(loss, bounds=(low, high), method="bounded")
    return float(np.exp(best.x))


def _classifier(
    x: np.ndarray, group: np.ndarray, groups: int, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight [G, D] and bias [G] float64 of the logistic regression.

    A group without rows gets a logit far below the others'.
    """
    weight, bias = np.zeros((groups, x.shape[1])), np.full(groups, -30.0)
    present = np.unique(group)
    if len(present) == 1:
        bias[present] = 0.0
        return weight, bias
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=1.0 / (penalty * len(x)), max_iter=_STEPS).fit(x, group)
    if len(present) == 2:  # scikit-learn has one logit, of the second group
        bias[present] = (0.0, float(model.intercept_[0]))
        weight[present[1]] = model.coef_[0]
    else:
        weight[present], bias[present] = model.coef_, model.intercept_
    return weight, bias


METHOD = Method(
    name="inferred_group",
    family="baseline",
    fit=fit,
    hyperparameters=InferredGroupHyperparameters,
    space=SPACE,
    about="mean utility of the groups, by inferred probability",
    trains_on=("group",),
)
