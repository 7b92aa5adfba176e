"""Fit a method that serves every compute weight with one router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router_rl.methods.method import Method, Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Router

__all__ = ["fit_for_weights"]

_LOWEST = 1e-3  # stands for a compute weight of 0, which has no logarithm


def fit_for_weights(
    method: Method, problem: RoutingProblem, hyperparameters: Any, weights: Sequence[float], run: Run
) -> Router:
    """Fit one router for compute weights from half the lowest to twice the highest.

    Args:
        method: one that amortizes.
        problem: its compute weight is not used.
        hyperparameters: an instance of `method.hyperparameters`.
        weights: the compute weights that the router will be used at.
        run: seed and messages.

    Returns:
        A router with the compute weight as its second input.
    """
    ends = {"lowest": max(min(weights), _LOWEST) / 2.0, "highest": max(max(weights), _LOWEST) * 2.0}
    values = {**vars(hyperparameters), **ends}
    return method.fit(problem, method.configure(values), run)
