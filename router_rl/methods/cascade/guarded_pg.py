"""The exact policy gradient, guarded by the tuned threshold cascade at every compute weight.

The gradient cannot tell steps apart whose values differ by less than its noise, such as a cheap question that
changes nothing, and it can stay in a local optimum. So at each compute weight the network decides only where
it earns more than the tuned threshold cascade by at least a standard error, on rows that the network's
members were not trained on. The cascade was tuned on those rows, so the comparison favours it. Elsewhere the
cascade decides, which may be a single expert. Both are one policy, which is exported as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experts.io.value_range import NonNegative

from ...problems.cascade.cascade_data import CascadeData
from ...problems.cascade.problem import CascadeProblem
from ...problems.problem import ActionPolicy
from ...routing.policies.cascade_policy import CascadePolicy
from ...routing.policies.cascade_rules import CascadeRules
from ..method import Method, Run
from .candidate_choice import cross_fitted_utility
from .cascade_training import SPACE, ExactPGHyperparameters, fit_exact_pg, greedy_utility
from .thresholds import ThresholdCascade
from .thresholds import fit as fit_thresholds

__all__ = ["METHOD", "GuardedPGHyperparameters", "fit", "held_out_utility"]


@dataclass(frozen=True, kw_only=True)
class GuardedPGHyperparameters(ExactPGHyperparameters):
    """Hyperparameters of the guarded policy gradient: those of the exact policy gradient and one more.

    Attributes:
        errors: standard errors by which the network must be better than the cascade.
    """

    errors: NonNegative = 1.0


def fit(problem: CascadeProblem, hyperparameters: GuardedPGHyperparameters, run: Run) -> ActionPolicy:
    """Train the network, tune the cascades, and choose between them at every compute weight."""
    trained = fit_exact_pg(problem, hyperparameters, run)
    policy = trained.module
    assert isinstance(policy, CascadePolicy)
    data = problem.data(run.seed)
    tuned = fit_thresholds(problem, None, run)
    size = len(_rule(tuned.policies[0]).order)
    rules = CascadeRules(len(tuned.policies), size)
    kept: list[float] = []
    for place, weight in enumerate(problem.weights):
        rule = _rule(tuned.policies[place])
        rules.set_rule(place, weight=weight, order=rule.order, stops=rule.stops, most_likely=rule.most_likely)
        rows, network = held_out_utility(policy, data, weight)
        gain = network - cross_fitted_utility(rule, problem, data, weight)[rows]
        if float(gain.mean()) > hyperparameters.errors * float(gain.std()) / len(gain) ** 0.5:
            kept.append(weight)
        else:
            rules.used[place] = 1.0
    policy.rules = rules
    run.facts["network_decides"] = kept
    named = ", ".join(f"{weight:g}" for weight in kept) or "none"
    run.messages.append(f"compute weights at which the network decides, not the threshold cascade: {named}")
    return ActionPolicy(actions=policy.act, module=policy)


def held_out_utility(policy: CascadePolicy, data: CascadeData, weight: float) -> tuple[Tensor, Tensor]:
    """Return rows that a member was not trained on, and what that member alone earns there.

    Args:
        policy: the ensemble; member f was trained without the rows of fold f.
        data: what it was trained on.
        weight: utility per unit of compute.

    Returns:
        rows [B] int64; utility [B] float32.
    """
    folds = [(data.fitted.fold == member).nonzero().squeeze(-1) for member in range(policy.members)]
    earned = [greedy_utility(policy, data, rows, weight, member=member) for member, rows in enumerate(folds)]
    return torch.cat(folds), torch.cat(earned)


def _rule(policy: object) -> ThresholdCascade:
    assert isinstance(policy, ThresholdCascade)
    return policy


METHOD = Method(
    name="guarded_pg",
    family="rl",
    full_information=True,
    fit=fit,
    hyperparameters=GuardedPGHyperparameters,
    space={"regression": (0.3, 1.0), **SPACE},
    about="exact_pg where it beats tuned thresholds, else those",
    amortizes=True,
)
