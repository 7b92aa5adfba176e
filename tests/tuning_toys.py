"""A toy method to tune: a hyperparameter is its validation utility, and names the expert that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from toy_methods import _router, disagreeing_table

from experts.io.value_range import Fraction
from router_rl import Objective, RoutingProblem
from router_rl.methods.hyperparameters import Hyperparameters
from router_rl.methods.method import Method, Run
from router_rl.methods.registry import METHODS as METHODS_BY_NAME
from router_rl.methods.training_loop import CurvePoint, Snapshot
from router_rl.routing import Router

__all__ = ["FITS", "METHODS", "NAME", "SKILLS", "STEPS", "installed", "problem_of_toys"]

NAME = "toy_curve"
SKILLS = (0.0, 0.5, 1.0)
STEPS = 4  # validations of a fit
FITS: list[tuple[float, int]] = []
"""Skill and validations of every fit since `installed`."""

before_fit: Callable[[float], None] | None = None
"""Is called with the skill of every fit."""


@dataclass(frozen=True, kw_only=True)
class CurveHyperparameters(Hyperparameters):
    """Hyperparameters of the toy.

    Attributes:
        skill: what it reports at every validation; expert b has the highest utility on tuning rows.
        label: has no effect.
    """

    skill: Fraction = 0.5
    label: str = "a"


def fit(problem: RoutingProblem, hyperparameters: CurveHyperparameters, run: Run) -> Router:
    """Return a router of one expert, after some validations that report the skill."""
    FITS.append((hyperparameters.skill, 0))
    if before_fit is not None:
        before_fit(hyperparameters.skill)
    for step in range(STEPS):
        if run.callback is not None:
            points = tuple(CurvePoint(at, hyperparameters.skill, 0.0, 1.0) for at in range(step + 1))
            run.callback(Snapshot(step=step, total=STEPS, validation=None, best=float("nan"), curve=points))
        FITS[-1] = (hyperparameters.skill, step + 1)
    expert = round(5 * hyperparameters.skill)
    return _router(problem, dict.fromkeys(("train", "validation", "tuning", "test"), expert))


METHODS = (
    Method(name=NAME, family="gate", fit=fit, hyperparameters=CurveHyperparameters, space={"skill": SKILLS}),
    Method(name="toy_fixed", family="gate", fit=fit, hyperparameters=CurveHyperparameters),
)


def problem_of_toys(seed: int = 0) -> RoutingProblem:
    """Return a problem whose tuning rows rank the experts otherwise than the other rows do."""
    return RoutingProblem(disagreeing_table(), Objective(compute_weight=0.1 + seed))


@contextmanager
def installed(hook: Callable[[float], None] | None = None) -> Iterator[None]:
    """Add the toys to the methods of the routing problem, and forget earlier fits.

    Args:
        hook: is called with the skill of every fit.
    """
    with pytest.MonkeyPatch.context() as patch:
        for method in METHODS:
            patch.setitem(METHODS_BY_NAME.own, f"routing.{method.name}", "tuning_toys:METHODS")
        patch.setitem(globals(), "before_fit", hook)
        FITS.clear()
        yield
