"""The last step to a budget: move a trained router along its own trade-off until its greedy choices meet it.

Taking `delta * k_e` off expert e's logit, k_e its mean compute, is what a dearer multiplier does to a router
whose logits are utilities. Choices are counted on validation rows, since a router spends otherwise on rows
it has learned from. The mean of other rows differs by chance, so the budget is met with one standard error
of the difference to as many other rows to spare.
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

__all__ = ["calibrated", "least_that_meets", "measure_within", "spends"]

_HALVINGS = 30


def calibrated(router: Router, problem: RoutingProblem) -> Router:
    """The router, its last bias moved so that it meets the problem's budget on validation rows.

    Where compute is left over it is spent only if validation quality gains. A router without a bias to move,
    or that draws its choices, is returned as it is.

    Args:
        router: under the problem's rule, over the problem's experts.
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
    dearness = problem.rule.lift(torch.from_numpy(-problem.mean_compute()).float(), temperature=0.0).to(
        device
    )

    def meets(delta: float) -> bool:
        chosen = router.rule.select(logits + delta * dearness).experts
        compute = (running(chosen, outcomes.experts) * outcomes.compute).sum(dim=-1)
        return spends(compute.cpu().numpy(), problem)

    unit = float(logits[logits > -9e3].std()) or 1.0
    if not meets(0.0):
        high = unit
        while not meets(high) and high < 1e6 * unit:
            high *= 2.0
        return _moved(router, dearness * least_that_meets(meets, 0.0, high))
    low = -unit / 64.0
    while meets(low) and low > -64.0 * unit:
        low *= 2.0
    freer = _moved(router, dearness * least_that_meets(meets, low, 0.0))
    as_is, spent = (_quality(each, problem) for each in (router, freer))
    return freer if spent > as_is else router


def measure_within(router: Router, problem: RoutingProblem) -> RouterMeasurement:
    """What a router is worth under a budget while it trains: calibrated, on validation rows."""
    return measure(calibrated(router, problem), problem.validation, problem.objective, problem.scale)


def spends(compute: np.ndarray, problem: RoutingProblem) -> bool:
    """Whether the mean of compute [V] of validation rows, with that error to spare, is within the budget."""
    budget = problem.objective.budget
    assert budget is not None
    error = compute.std(dtype=np.float64) * np.sqrt(2.0 / len(compute))
    return bool(compute.mean(dtype=np.float64) + error <= budget * (1.0 + 1e-6))


def least_that_meets(meets: Callable[[float], bool], low: float, high: float) -> float:
    """The least number from low to high that meets, if all above it do; high where none below does.

    >>> round(least_that_meets(lambda x: x >= 0.3, 0.0, 1.0), 6)
    0.3
    """
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def _quality(router: Router, problem: RoutingProblem) -> float:
    return measure(router, problem.validation, problem.objective, problem.scale).means()["utility"]


def _moved(router: Router, offset: Tensor) -> Router:
    moved = copy.deepcopy(router)
    bias = moved.scorer.output_bias()
    assert bias is not None
    with torch.no_grad():
        bias += offset
    return moved
