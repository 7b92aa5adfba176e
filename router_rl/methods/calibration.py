"""Calibrate a trained router to a budget by shifting its logits along each expert's mean compute.

Subtracting `delta * k_e` from expert e's logit, with k_e its mean compute, acts like a higher compute weight
on a router whose logits are utilities. The mean compute is measured on validation rows, because a router
spends differently on rows it was trained on. The mean on other rows differs by chance, so the budget is met
with a margin of one standard error of the difference to as many other rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from envs import Outcomes
from envs.reward import running

from ..problems.routing.problem import RoutingProblem
from ..problems.routing.router_measurement import RouterMeasurement, measure
from ..problems.routing.router_state import state_of
from ..routing import Router

__all__ = ["calibrated", "measure_within", "smallest_feasible", "within_budget"]

_BISECTIONS = 30


def calibrated(router: Router, problem: RoutingProblem) -> Router:
    """Return the router with its output bias shifted so that it meets the budget on validation rows.

    If the router spends less than the budget, the rest is spent only if validation quality increases. A
    router that has no bias, or that samples its choices, is returned unchanged.

    Args:
        router: a router with the problem's selection rule and experts.
        problem: with a budget.
    """
    if router.stochastic or router.scorer.output_bias() is None:
        return router
    device = next(router.parameters()).device
    outcomes = Outcomes.of(problem.validation, problem.scale, device)
    rows = torch.arange(outcomes.queries, device=device)
    state = state_of(router.state, problem.validation, problem.objective, device)
    with torch.inference_mode():
        logits, _ = router.logits(outcomes.features, state(rows, torch.zeros_like(outcomes.quality)))
    direction = problem.rule.lift(torch.from_numpy(-problem.mean_compute()).float(), temperature=0.0)
    direction = direction.to(device)

    def feasible(delta: float) -> bool:
        experts = router.rule.select(logits + delta * direction).experts
        compute = (running(experts, outcomes.experts) * outcomes.compute).sum(dim=-1)
        return within_budget(compute.cpu().numpy(), problem)

    unit = float(logits[logits > -9e3].std()) or 1.0
    if not feasible(0.0):
        high = unit
        while not feasible(high) and high < 1e6 * unit:
            high *= 2.0
        return _shifted(router, direction * smallest_feasible(feasible, 0.0, high))
    low = -unit / 64.0
    while feasible(low) and low > -64.0 * unit:
        low *= 2.0
    more_expensive = _shifted(router, direction * smallest_feasible(feasible, low, 0.0))
    quality, shifted_quality = (_quality(each, problem) for each in (router, more_expensive))
    return more_expensive if shifted_quality > quality else router


def measure_within(router: Router, problem: RoutingProblem) -> RouterMeasurement:
    """Evaluate a router on validation rows after calibration to the budget."""
    return measure(calibrated(router, problem), problem.validation, problem.objective, problem.scale)


def within_budget(compute: np.ndarray, problem: RoutingProblem) -> bool:
    """Return whether the mean of validation compute [V], plus the safety margin, is within the budget."""
    budget = problem.objective.budget
    assert budget is not None
    error = compute.std(dtype=np.float64) * np.sqrt(2.0 / len(compute))
    return bool(compute.mean(dtype=np.float64) + error <= budget * (1.0 + 1e-6))


def smallest_feasible(feasible: Callable[[float], bool], low: float, high: float) -> float:
    """Return the smallest feasible number between two by bisection; high if none below it is feasible.

    Args:
        feasible: increasing: if it is True for a number, it is True for larger ones.
        low: lower end.
        high: upper end.

    >>> round(smallest_feasible(lambda x: x >= 0.3, 0.0, 1.0), 6)
    0.3
    """
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if feasible(middle) else (middle, high)
    return high


def _quality(router: Router, problem: RoutingProblem) -> float:
    return measure(router, problem.validation, problem.objective, problem.scale).means()["utility"]


def _shifted(router: Router, offset: Tensor) -> Router:
    shifted = copy.deepcopy(router)
    bias = shifted.scorer.output_bias()
    assert bias is not None
    with torch.no_grad():
        bias += offset
    return shifted
