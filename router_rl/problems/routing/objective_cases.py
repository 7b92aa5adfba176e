"""Cases of a problem that is compared under several objectives."""

from __future__ import annotations

from collections.abc import Sequence

from experts import InputError

from ..objective import Objective
from ..problem import Case
from .routing_options import ScorerConfig

__all__ = ["check_objectives", "objective_case"]


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
