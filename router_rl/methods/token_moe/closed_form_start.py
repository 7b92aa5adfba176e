"""Closed-form warm start of every token-level method; without biases, unless the selection is a tree's."""

from __future__ import annotations

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import TokenMoEProblem
from ...problems.token_moe.token_measurement import measure
from .handover import foldable
from .token_ridge import RidgeHyperparameters, fit_ridge

__all__ = ["closed_form_start"]

_RIDGES = [
    RidgeHyperparameters(penalty=penalty, window=window) for penalty in (1e-2, 1e-1) for window in (4, 16)
]


def closed_form_start(problem: TokenMoEProblem) -> LayerRouters:
    """Return the best ridge routers on validation, distilled into routers without bias, as stock gates are.

    Stock gates have no trees, so routers of hierarchical selection keep their biases.

    Args:
        problem: the problem; the result is cached for all methods of this process.
    """
    pool = problem.pool

    def loss(routers: LayerRouters) -> float:
        return float(measure(pool.tail, pool.parts["validation"], routers.choose).loss.mean())

    def make() -> LayerRouters:
        rule = problem.selection if problem.tree is not None else None
        fits = [fit_ridge(pool.tail, pool.parts["train"], each, rule) for each in _RIDGES]
        best = min(fits, key=loss)
        return foldable(pool, best)[0] if rule is None else best

    start: LayerRouters = problem.cached("closed_form_start", make)
    return start
