"""Group lookup with an inferred group: each group's mean utilities, weighted by the group's probability.

A multinomial logistic regression infers the group from the features; its temperature is calibrated on
held-out folds. Unlike `group_label`, the router does not need the group of a query. Groups' means are shrunk
as those of `group_label` are.

`router_rl.problems.group_classifier` has the classifier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from envs.reward import expert_utility
from experts import InputError
from experts.io.value_range import NonNegative

from ...problems.cross_fitting import held_out
from ...problems.group_classifier import fit_group_classifier, fit_temperature
from ...problems.routing.problem import RoutingProblem
from ...problems.shrunken_means import shrunken_means
from ...routing import LookupScorer, Router
from ..hyperparameters import Hyperparameters
from ..method import Method, Run

__all__ = ["METHOD", "SPACE", "InferredGroupHyperparameters", "fit"]

_FOLDS = 3  # of the calibration


@dataclass(frozen=True, kw_only=True)
class InferredGroupHyperparameters(Hyperparameters):
    """Hyperparameters of the lookup with an inferred group.

    Attributes:
        strength: shrinkage of a group's means to the overall means, in rows; at least 0.
        penalty: L2 penalty of the logistic regression on standardised features, per training row.
    """

    strength: NonNegative = 5.0
    penalty: NonNegative = 1e-2


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
        logits = np.zeros((len(x), len(labels)))
        for kept, away in held_out(problem.train, _FOLDS, run.seed):
            weight, bias = classified(kept)
            logits[away] = x[away] @ weight.T + bias
        temperature = fit_temperature(logits, group)
        weight, bias = classified(np.arange(len(x)))
        return weight / temperature, bias / temperature

    def classified(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inverse_penalty = 1.0 / (hyperparameters.penalty * len(rows))
        return fit_group_classifier(x[rows], group[rows], len(labels), inverse_penalty=inverse_penalty)

    weight, bias = problem.cached(("inferred_group", hyperparameters.penalty, run.seed), classifier)
    with torch.no_grad():
        scorer.weight.copy_(torch.from_numpy(weight))
        scorer.bias.copy_(torch.from_numpy(bias))
        scorer.values.copy_(values)
    return router.eval()


METHOD = Method(
    name="inferred_group",
    family="baseline",
    fit=fit,
    hyperparameters=InferredGroupHyperparameters,
    space=SPACE,
    about="mean utility of the groups, by inferred probability",
    sparse=True,
    trains_on=("group",),
)
