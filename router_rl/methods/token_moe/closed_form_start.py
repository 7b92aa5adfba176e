"""Closed-form warm start of every token-level method; without biases where stock gates have none."""

from __future__ import annotations

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import TokenMoEProblem
from ...routing import AdaptiveK, Hierarchical, Selection
from .handover import foldable
from .token_ridge import RidgeHyperparameters, fit_ridge
from .token_training import mean_loss

__all__ = ["closed_form_start"]

_RIDGES = [
    RidgeHyperparameters(penalty=penalty, window=window) for penalty in (1e-2, 1e-1) for window in (4, 16)
]


def closed_form_start(problem: TokenMoEProblem, rule: Selection | None = None) -> LayerRouters:
    """Return the best ridge routers on validation, distilled into routers without bias, as stock gates are.

    Stock gates have no trees and no null expert, so routers of hierarchical and adaptive selection keep their
    biases.

    Args:
        problem: the problem; the result is cached for all methods of this process.
        rule: selection rule; the problem's if None.
    """
    pool, rule = problem.pool, problem.selection if rule is None else rule
    lifted = rule if isinstance(rule, Hierarchical | AdaptiveK) else None

    def make() -> LayerRouters:
        fits = [fit_ridge(pool.tail, pool.parts["train"], each, lifted) for each in _RIDGES]
        best = min(fits, key=mean_loss(pool))
        return foldable(pool, best)[0] if lifted is None else best

    start: LayerRouters = problem.cached(("closed_form_start", lifted), make)
    return start
