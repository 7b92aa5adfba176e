"""The best expert of each group: a router that knows a query's task and nothing else.

An expert's value is its mean utility on the group's training rows, shrunk to its overall mean,
`(n_g mean_ge + s mean_e) / (n_g + s)`, so that small groups rely on all rows (the m-estimate, Cestnik 1990;
empirical Bayes, Efron and Morris 1975). Groups without training rows use the best expert overall. The group
is the router's second input, not a feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from envs.reward import expert_utility
from experts import InputError
from experts.io.value_range import NonNegative

from ...problems.routing.problem import RoutingProblem
from ...problems.shrunken_means import shrunken_means
from ...routing import LinearScorer, Router, StateInput
from ..hyperparameters import Hyperparameters
from ..method import Method, Run

__all__ = ["METHOD", "SPACE", "GroupLabelHyperparameters", "fit"]


@dataclass(frozen=True, kw_only=True)
class GroupLabelHyperparameters(Hyperparameters):
    """Hyperparameters of the group router.

    Attributes:
        strength: shrinkage s to the overall mean, in rows; at least 0.
    """

    strength: NonNegative = 5.0


SPACE = {"strength": (0.0, 1.0, 5.0, 20.0, 100.0)}


def fit(problem: RoutingProblem, hyperparameters: GroupLabelHyperparameters, run: Run) -> Router:
    """Average the utilities by group, in float64, and return the router.

    Raises:
        InputError: the table has no groups.
    """
    if problem.train.group is None:
        raise InputError(
            "table",
            problem.train.source,
            "has no groups",
            "add a `group` column, or use another method",
        )
    labels, group = np.unique(problem.train.group.astype(str), return_inverse=True)
    outcomes = problem.outcomes()
    utility = expert_utility(outcomes, problem.objective.compute_weight).double()
    means = shrunken_means(
        utility, torch.from_numpy(group).to(problem.device), len(labels), hyperparameters.strength
    )
    logits = problem.rule.lift(means, temperature=0.0)
    scorer = LinearScorer(outcomes.features.shape[1] + len(labels), logits.shape[1])
    names = tuple(str(label) for label in labels)
    meaning = "one-hot of the query's group, in the order of the labels; zeros for other groups"
    router = problem.wrap(scorer, (StateInput("group", len(names), meaning, names),))
    with torch.no_grad():
        scorer.shift.zero_()  # features are ignored and the one-hot is not standardised
        scorer.scale.fill_(1.0)
        scorer.weight[:, -len(names) :] = (logits[:-1] - logits[-1]).T
        scorer.bias.copy_(logits[-1])
    return router.eval()


METHOD = Method(
    name="group_label",
    family="baseline",
    fit=fit,
    hyperparameters=GroupLabelHyperparameters,
    space=SPACE,
    about="the best expert of the query's group",
    sparse=True,
    needs=("group",),
)
