"""Fit any method within a budget: `max E[quality]` subject to `E[compute] <= B`.

Every method that heeds a compute weight can be held to a budget, for the weight is the constraint's
multiplier; they differ in who finds it. `exact_pg` and `warm_exact_pg` move it as they train, by a PID
controller. `conditioned_pg` has learned every weight and reads off the right one. Gates and closed-form
routers are fitted again and again, the weight found by bisection on its logarithm. All end with the same
calibration on validation rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from experts import InputError

from ..problems.objective import Objective
from ..problems.problem import Problem
from ..problems.routing.problem import RoutingProblem
from ..problems.routing.router_measurement import measure
from ..routing import Router
from .calibration import calibrated, least_that_meets, spends
from .method import Method, Run

__all__ = ["amortizes", "check_budget", "fit_method"]

_RANGE = (1e-3, 10.0)  # of multipliers: quality is at most 1, so at 10 next to nothing dear is chosen
_READ = (0.01, 2.0)  # what a conditioned policy learns, and half and twice that, to read the right one off
_FITS = 8
_NEAR = 0.02


def fit_method(method: Method, problem: Problem, hyperparameters: Any, run: Run) -> Any:
    """Fit a method, within the objective's budget where there is one.

    Args:
        method: the method.
        problem: with one case, unless the method amortizes.
        hyperparameters: an instance of `method.hyperparameters`.
        run: seed, callback and checkpoint.

    Raises:
        InputError: the method cannot be held to the budget.
    """
    if not isinstance(problem, RoutingProblem) or problem.objective.budget is None:
        return method.fit(problem, hyperparameters, run)
    check_budget([method], problem.objective)
    if method.amortizes:
        ends = [replace(problem.objective, compute_weight=weight, budget=None) for weight in _READ]
        router = method.fit(problem.with_objective(*ends), hyperparameters, run)
        router = _folded_within(router, problem)
    elif method.holds_budget:
        router = method.fit(problem, hyperparameters, run)
    else:
        router = _searched(method, problem, hyperparameters, run)
    return calibrated(router, problem)


def amortizes(method: Method, problem: Problem) -> bool:
    """Whether one fit of the method serves all cases of a problem; under a budget there is one case."""
    objective = problem.cases[0].objective
    return method.amortizes and (objective is None or objective.budget is None)


def check_budget(methods: Sequence[Method], objective: Objective) -> None:
    """Raise InputError unless all these methods can be held to the objective's budget, if it has one."""
    if objective.budget is None:
        return
    for method in methods:
        searched = method.family != "rl"
        if not (searched or method.holds_budget or method.amortizes):
            raise InputError(
                "objective.budget",
                objective.budget,
                f"{method.name} cannot be held to it",
                "use exact_pg, warm_exact_pg, conditioned_pg, or any gate or baseline",
            )
        if not searched and objective.load_weight:
            raise InputError(
                "objective.load_weight",
                objective.load_weight,
                f"{method.name} cannot be held to a budget where load is charged",
                "use load_weight 0, or a gate",
            )


def _priced(problem: RoutingProblem, weight: float) -> RoutingProblem:
    """The task without its budget, compute charged at a weight."""
    return problem.with_objective(replace(problem.objective, compute_weight=weight, budget=None))


def _folded_within(router: Router, problem: RoutingProblem) -> Router:
    """A conditioned router at the least weight that meets the budget on validation rows."""
    low, high = router.scorer.ranges[0]

    def at(place: float) -> Router:
        return router.at(compute_weight=low * (high / low) ** place)

    def meets(place: float) -> bool:
        return spends(
            measure(at(place), problem.validation, problem.objective, problem.scale).compute, problem
        )

    return at(0.0 if meets(0.0) else least_that_meets(meets, 0.0, 1.0))


def _searched(method: Method, problem: RoutingProblem, hyperparameters: Any, run: Run) -> Router:
    """Fits at multipliers found by bisection; the one whose compute on validation rows is nearest the budget.

    Nearest only where calibration can close the gap; elsewhere the dearest that meets it, or the cheapest.
    """
    budget = problem.objective.budget
    assert budget is not None
    low, high = (math.log(value) for value in _RANGE)
    place = min(max(math.log(max(problem.objective.compute_weight, 1e-3)), low), high)
    found: list[tuple[float, Router]] = []
    for _ in range(_FITS):
        priced = _priced(problem, math.exp(place))
        router = method.fit(priced, hyperparameters, replace(run, checkpoint=Run().checkpoint))
        compute = measure(router, problem.validation, priced.objective, problem.scale, seed=run.seed).compute
        found.append((float(compute.mean(dtype=float)), router))
        if abs(found[-1][0] - budget) <= _NEAR * budget and spends(compute, problem):
            break
        low, high = (low, place) if spends(compute, problem) else (place, high)
        place = (low + high) / 2.0

    def preference(fit: tuple[float, Router]) -> tuple[bool, float]:
        return fit[0] <= budget, -abs(fit[0] - budget)

    return max(found, key=preference)[1]
