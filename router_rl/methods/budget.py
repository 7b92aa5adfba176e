"""Fit any method within a budget: `max E[quality]` subject to `E[compute] <= B`.

The compute weight is the Lagrange multiplier of the constraint, so any method that takes a compute weight
can meet a budget. `exact_pg` and `warm_exact_pg` update the multiplier during training, by a PID controller.
`conditioned_pg` and `priced_pg` are trained for all weights, and the right one is looked up. Gates and
closed-form routers are refitted, with the weight found by bisection on its logarithm. All methods end with
the same calibration on validation rows.
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
from .calibration import calibrated, smallest_feasible, within_budget
from .method import Method, Run

__all__ = ["amortizes", "check_budget", "fit_method"]

_RANGE = (1e-3, 10.0)  # multipliers: quality is at most 1, so at 10 only cheap experts are selected
_ENDS = (0.01, 2.0)  # compute weights that conditioned policies are trained for (they add a factor of 2)
_MAX_FITS = 8
_TOLERANCE = 0.02


def fit_method(method: Method, problem: Problem, hyperparameters: Any, run: Run) -> Any:
    """Fit a method, within the objective's budget if there is one.

    Args:
        method: the method.
        problem: with one case, unless the method amortizes.
        hyperparameters: an instance of `method.hyperparameters`.
        run: seed, callback and checkpoint.

    Returns:
        a `Router` for a routing problem, a policy with `start` and `act` for the others.

    Raises:
        InputError: the method does not support a budget.
    """
    if not isinstance(problem, RoutingProblem) or problem.objective.budget is None:
        return method.fit(problem, hyperparameters, run)
    check_budget([method], problem.objective)
    if method.amortizes:
        ends = [replace(problem.objective, compute_weight=weight, budget=None) for weight in _ENDS]
        router = method.fit(problem.with_objective(*ends), hyperparameters, run)
        router = _fixed_within_budget(router, problem)
    elif method.holds_budget:
        router = method.fit(problem, hyperparameters, run)
    else:
        router = _fit_by_bisection(method, problem, hyperparameters, run)
    return calibrated(router, problem)


def amortizes(method: Method, problem: Problem) -> bool:
    """Return whether one fit serves all cases of a problem. Under a budget there is one case."""
    objective = problem.cases[0].objective
    return method.amortizes and (objective is None or objective.budget is None)


def check_budget(methods: Sequence[Method], objective: Objective) -> None:
    """Check that all methods support the objective's budget, if it has one.

    Raises:
        InputError: a method does not support the budget, or not with a load penalty.
    """
    if objective.budget is None:
        return
    for method in methods:
        searched = method.family != "rl"
        if not (searched or method.holds_budget or method.amortizes):
            raise InputError(
                "objective.budget",
                objective.budget,
                f"{method.name} does not support a budget",
                "use exact_pg, warm_exact_pg, conditioned_pg, or any gate or baseline",
            )
        if not searched and objective.load_weight:
            raise InputError(
                "objective.load_weight",
                objective.load_weight,
                f"{method.name} does not support a budget if load is charged",
                "use load_weight 0, or a gate",
            )


def _at_weight(problem: RoutingProblem, weight: float) -> RoutingProblem:
    """Return the problem without its budget, under another compute weight."""
    return problem.with_objective(replace(problem.objective, compute_weight=weight, budget=None))


def _fixed_within_budget(router: Router, problem: RoutingProblem) -> Router:
    """Fix a conditioned router at the lowest compute weight that meets the budget on validation rows."""
    low, high = router.scorer.ranges[0]

    def at(position: float) -> Router:
        return router.at(compute_weight=low * (high / low) ** position)

    def feasible(position: float) -> bool:
        result = measure(at(position), problem.validation, problem.objective, problem.scale)
        return within_budget(result.compute, problem)

    return at(0.0 if feasible(0.0) else smallest_feasible(feasible, 0.0, 1.0))


def _fit_by_bisection(method: Method, problem: RoutingProblem, hyperparameters: Any, run: Run) -> Router:
    """Refit at several multipliers; returns the fit that spends most within the budget on validation rows.

    If no fit is within the budget, returns the cheapest one.
    """
    budget = problem.objective.budget
    assert budget is not None
    low, high = (math.log(value) for value in _RANGE)
    position = min(max(math.log(max(problem.objective.compute_weight, 1e-3)), low), high)
    fits: list[tuple[float, Router]] = []
    for _ in range(_MAX_FITS):
        part = _at_weight(problem, math.exp(position))
        router = method.fit(part, hyperparameters, replace(run, checkpoint=Run().checkpoint))
        compute = measure(router, problem.validation, part.objective, problem.scale, seed=run.seed).compute
        fits.append((float(compute.mean(dtype=float)), router))
        feasible = within_budget(compute, problem)
        if feasible and abs(fits[-1][0] - budget) <= _TOLERANCE * budget:
            break
        low, high = (low, position) if feasible else (position, high)
        position = (low + high) / 2.0

    def preference(fit: tuple[float, Router]) -> tuple[bool, float]:
        return fit[0] <= budget, -abs(fit[0] - budget)

    return max(fits, key=preference)[1]
