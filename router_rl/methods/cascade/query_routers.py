"""Routers of the query, trained as in the routing problem: they ask one expert and return its answer.

`CascadeProblem.evaluate` runs a router as a cascade policy. The rows, the compute weight and the features are
those of the cascade, so the difference to a cascade policy is the value of asking a second expert.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...problems.cascade.problem import CascadeProblem
from ...routing import Router
from ..agents.warm_start import METHOD as WARM_EXACT_PG
from ..baselines.constants import METHODS as CONSTANTS
from ..baselines.kernel import METHOD as KERNEL
from ..baselines.knn import METHOD as KNN
from ..baselines.ridge import METHOD as RIDGE
from ..gates.softmax_gate import METHOD as SOFTMAX_GATE
from ..method import Fit, Method, Run

__all__ = ["METHODS"]


def _fit_of(method: Method) -> Fit:
    """Return the fit of a routing method on the routing problem of a cascade's table."""

    def fit(problem: CascadeProblem, hyperparameters: Any, run: Run) -> Router:
        return method.fit(problem.routing(), hyperparameters, run)

    return fit


def _on_cascades(method: Method, about: str) -> Method:
    return replace(method, fit=_fit_of(method), about=about, selections=(), holds_budget=False)


_CONSTANTS = {method.name: method for method in CONSTANTS}

METHODS = (
    _on_cascades(SOFTMAX_GATE, "softmax gate on query features; asks one expert"),
    _on_cascades(WARM_EXACT_PG, "exact_pg on query features; asks one expert"),
    _on_cascades(KNN, "mean utility on the nearest queries; asks one expert"),
    _on_cascades(KERNEL, "mean utility by similarity to queries; asks one expert"),
    _on_cascades(RIDGE, "ridge regression of utilities; asks one expert"),
    _on_cascades(_CONSTANTS["best_single"], "asks the same expert for every query"),
    _on_cascades(_CONSTANTS["random"], "asks an expert drawn uniformly"),
)
