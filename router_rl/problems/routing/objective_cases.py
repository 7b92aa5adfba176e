"""Cases of a problem that is compared under several objectives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experts import InputError

from ..objective import Objective
from ..problem import Case
from .routing_options import ScorerConfig

__all__ = ["check_affordable", "check_objectives", "objective_case"]


def objective_case(objective: Objective) -> Case:
    """Return the case of an objective, named by its compute weight or budget.

    Args:
        objective: the objective.
    """
    values = {"compute_weight": objective.compute_weight, "load_weight": objective.load_weight}
    label = f"compute weight {objective.compute_weight:g}"
    if objective.budget is not None:
        label, values = f"budget {objective.budget:g}", {**values, "budget": objective.budget}
    if objective.load_weight:
        label = f"{label}, load weight {objective.load_weight:g}"
    return Case(label=label, values=values, objective=objective)


def check_objectives(objectives: Sequence[Objective], scorer: ScorerConfig) -> None:
    """Check that the cases of these objectives are distinct in results, and that the scorer can meet them.

    Args:
        objectives: one per case.
        scorer: shape of the scorer.

    Raises:
        InputError: there is none, two are equal, several are compared under a budget, or a scorer without
            bias has a budget.
    """
    if not objectives:
        raise InputError("objective", [], "there is none", "give at least one")
    labels = [objective_case(each).label for each in objectives]
    if len(set(labels)) < len(labels):
        raise InputError("objective.compute_weight", labels, "one is given twice", "make them distinct")
    if len(labels) > 1 and any(each.budget is not None for each in objectives):
        reason = "a budget replaces the compute weights, which distinguish the cases"
        raise InputError("objective.budget", labels, reason, "compare one budget at a time")
    if not scorer.bias and any(each.budget is not None for each in objectives):
        reason = "a budget is met by shifting the bias"
        raise InputError("problem.scorer.bias", False, reason, "leave it out, or train without a budget")


def check_affordable(objective: Objective, experts: Sequence[str], compute: np.ndarray, needed: int) -> None:
    """Check that the maximum cost and the budget leave a possible decision.

    Args:
        objective: the objective.
        experts: N names.
        compute: [N] float64, mean compute of each.
        needed: fewest experts of a decision.

    Raises:
        InputError: they do not.
    """
    max_cost, budget = objective.max_cost, objective.budget
    cheapest = int(compute.argmin())
    description = f"{experts[cheapest]}, costs {compute[cheapest]:.4g}"
    affordable = compute <= (max_cost or float("inf"))
    if max_cost is not None and affordable.sum() < needed:
        reason = f"leaves {affordable.sum()} experts, a decision needs {needed}; the cheapest, {description}"
        raise InputError("objective.max_cost", max_cost, reason, "raise the maximum cost")
    if budget is not None and np.sort(compute)[:needed].sum() > budget:
        reason = f"cannot be met: the cheapest expert, {description}, and a decision needs {needed}"
        raise InputError("objective.budget", budget, reason, "raise the budget")
