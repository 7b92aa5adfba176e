"""Measure one conditioned fit under every objective it serves: folded at each one's own weight."""

from __future__ import annotations

from dataclasses import replace

from experts import OutcomeTable

from ..exports import export
from ..problems.objective import Objective
from ..problems.routing.problem import RoutingProblem
from ..problems.routing.router_measurement import measure
from ..routing import Router
from .trial import CellResult

__all__ = ["fold_for", "fold_result"]


def fold_for(router: Router, objective: Objective) -> Router:
    """The plain router that a conditioned one is under an objective.

    Raises:
        RouterError: the router has no conditions.
    """
    return router.at(**{part.name: getattr(objective, part.name) for part in router.state})


def fold_result(
    result: CellResult, objective: Objective, problem: RoutingProblem, test: OutcomeTable
) -> CellResult:
    """A conditioned fit's result under another objective, its folded router exported beside it.

    Args:
        result: of the fit.
        objective: what to fold for and to measure by.
        problem: validation rows and the unit of compute.
        test: rows to measure on.
    """
    router = fold_for(result.router(), objective)
    seed = result.cell.seed
    folder = result.folder.with_name(f"{result.folder.name}-at-{objective.compute_weight:g}")
    folder.mkdir(exist_ok=True)
    export(router, folder / "router", table=problem.validation)
    found = measure(router, problem.validation, objective, problem.scale, seed=seed)
    validation, facts = found.means(), result.facts
    if facts is not None:
        trained = measure(router, problem.train, objective, problem.scale, seed=seed)
        facts = replace(
            facts,
            shares=found.shares,
            utility=validation["utility"],
            train_utility=trained.means()["utility"],
        )
    return replace(
        result,
        cell=replace(result.cell, objective=objective),
        folder=folder,
        validation=validation,
        validation_utility=found.utility,
        facts=facts,
        test=measure(router, test, objective, problem.scale, seed=seed),
    )
