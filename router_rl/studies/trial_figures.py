"""Figures of a fit that every problem has: its learning curve, and the calibration of its choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..methods.training_loop import CurvePoint
from ..problems.problem import Case, FigureData, Problem
from ..problems.routing.folding import for_objective
from ..problems.routing.problem import RoutingProblem
from ..routing import Router

__all__ = ["choice_calibration", "learning_curve"]

_POINTS = 60  # of a curve
_BINS = 10


def learning_curve(curve: Sequence[CurvePoint], case: Case) -> list[FigureData]:
    """Return the curve of a fit as a figure; none for a fit without validations.

    Args:
        curve: validation results of the fit.
        case: the case of the figures.
    """
    known = [point for point in curve if math.isfinite(point.utility)]
    if len(known) < 2:
        return []
    kept = {round(at) for at in np.linspace(0, len(known) - 1, min(_POINTS, len(known)))}
    return [
        FigureData(
            form="learning_curve",
            title="Learning curves",
            note=f"Mean utility on validation rows while a method learns; first seed, {case.label}.",
            data={"curve": [[known[at].step, known[at].utility] for at in sorted(kept)]},
        )
    ]


@torch.inference_mode()
def choice_calibration(policy: Any, problem: Problem, case: Case) -> list[FigureData]:
    """Return how often a router's choice is the best one, by the probability that it gives the choice.

    Args:
        policy: the fitted policy; a figure is returned for routers that choose one expert by features alone.
        problem: the problem.
        case: the case of the figures.
    """
    if not isinstance(problem, RoutingProblem) or not isinstance(policy, Router) or policy.state:
        return []
    table, objective = problem.rows("test"), case.objective
    if problem.rule.k != 1 or objective is None or table.features is None or not len(table):
        return []
    router = for_objective(policy, objective)
    logits = router(torch.tensor(table.features)).logits
    if logits.shape[1] != len(table.experts):
        return []
    stated, choice = (part.numpy() for part in torch.softmax(logits.double(), dim=-1).max(dim=-1))
    compute = table.cost / problem.scale
    utility = objective.utility(table.quality, compute, np.zeros_like(compute))
    right = utility[np.arange(len(table)), choice] >= utility.max(axis=1) - 1e-6
    order = np.argsort(stated, kind="stable")
    bins = [rows for rows in np.array_split(order, _BINS) if len(rows)]
    return [
        FigureData(
            form="calibration",
            title="Calibration of the choices",
            note=(
                "Probability that a router gives its choice, against the share of test queries on which no "
                f"expert has a higher utility; ten bins of equal size, first seed, {case.label}. On the "
                "dashed line, the probability is that share. Routers are trained for utility, not for this."
            ),
            data={
                "bins": [
                    {
                        "stated": float(stated[rows].mean()),
                        "came_true": float(right[rows].mean()),
                        "queries": len(rows),
                    }
                    for rows in bins
                ]
            },
        )
    ]
