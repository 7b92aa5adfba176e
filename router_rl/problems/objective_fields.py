"""Check that a problem supports an objective, and make one case per compute weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from experts import InputError

from .objective import Objective
from .problem import Case, Problem

__all__ = ["check_objective", "compute_weight_cases", "only_objective"]


def check_objective(problem: type[Problem], objective: Objective) -> None:
    """Check that only fields that the problem uses differ from their defaults.

    Args:
        problem: its `objective_fields` are the fields that it uses.
        objective: the objective.

    Raises:
        InputError: another field is set; names it and the fields that the problem uses.
    """
    default = Objective()
    for each in fields(Objective):
        value = getattr(objective, each.name)
        if each.name not in problem.objective_fields and value != getattr(default, each.name):
            used = ", ".join(problem.objective_fields)
            reason = f"{problem.name} does not use it"
            raise InputError(f"objective.{each.name}", value, reason, f"leave it out; it uses {used}")


def compute_weight_cases(problem: type[Problem], objectives: Sequence[Objective]) -> tuple[Case, ...]:
    """Return one case per objective, labelled by its compute weight.

    Args:
        problem: class of the problem.
        objectives: at least one, with distinct compute weights.

    Raises:
        InputError: there is none, two are equal, or one sets a field that the problem does not use.
    """
    weights = [objective.compute_weight for objective in objectives]
    if not weights:
        raise InputError("objective", [], "there is none", "give at least one")
    if len(set(weights)) < len(weights):
        raise InputError("objective.compute_weight", weights, "one is given twice", "make them distinct")
    for objective in objectives:
        check_objective(problem, objective)
    return tuple(
        Case(
            label=f"compute weight {objective.compute_weight:g}",
            values={"compute_weight": objective.compute_weight},
            objective=objective,
        )
        for objective in objectives
    )


def only_objective(problem: type[Problem], objective: Objective | Sequence[Objective]) -> Objective:
    """Return the objective of a problem whose cases share one.

    Args:
        problem: class of the problem.
        objective: one objective, or a sequence of one.

    Raises:
        InputError: there are several or none, or it sets a field that the problem does not use.
    """
    given = (objective,) if isinstance(objective, Objective) else tuple(objective)
    if len(given) != 1:
        weights = [each.compute_weight for each in given]
        reason = f"{problem.name} has one objective for all its cases"
        raise InputError("objective.compute_weight", weights, reason, "give one compute weight")
    check_objective(problem, given[0])
    return given[0]
