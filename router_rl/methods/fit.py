"""Fit one method to one problem: hyperparameters chosen on validation, the policy returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experts import InputError

from ..problems.problem import Problem
from .budget import amortizes, fit_method
from .method import Bound, Method, Run
from .registry import find_method
from .training_loop import Callback

__all__ = ["check_method", "fit", "learnable"]


def fit(
    method: str,
    problem: Problem,
    *,
    seed: int = 0,
    n_trials: int = 1,
    hyperparameters: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
) -> Any:
    """Train a router, or the policy of another problem.

    Args:
        method: a name of `train_router.py list`.
        problem: with one case (`problem.at(case)`), unless the method serves all cases with one fit.
        seed: of everything random.
        n_trials: hyperparameter settings tried; the best on validation is returned.
        hyperparameters: values for some of the method's hyperparameters; then there is one trial.
        callback: is passed a `Snapshot` after every validation measurement.

    Returns:
        A `Router` for a routing problem, a policy with `start` and `act` for the others.

    Raises:
        InputError: a name is unknown, a value does not fit, or the problem has several cases.
        RouterError: the selection rule needs more experts than the table has.
    """
    found = learnable(method, problem)
    if not amortizes(found, problem) and len(problem.cases) > 1:
        labels = [case.label for case in problem.cases]
        reason = f"{method} is fitted to one case at a time"
        raise InputError("problem.cases", labels, reason, "give problem.at(case)")
    candidates = found.candidates(n_trials) if hyperparameters is None else [found.configure(hyperparameters)]
    run = Run(seed=seed, callback=callback)
    policies = [fit_method(found, problem, each, run) for each in candidates]
    best = policies[0]
    if len(policies) > 1:
        best = max(policies, key=lambda policy: _validation_utility(policy, problem, seed))
    return problem.finish(best)


def learnable(name: str, problem: Problem) -> Method:
    """A method that can be fitted to a problem.

    Raises:
        InputError: it is unknown, is a bound, or cannot learn the selection rule or use the table.
    """
    found = find_method(problem.name, name)
    if isinstance(found, Bound):
        raise InputError("method", name, "is a bound: it knows the outcomes", "choose another method")
    reason = check_method(found, problem)
    if reason is not None:
        raise InputError("method", name, reason, "choose another method, see `list`")
    return found


def check_method(method: Method, problem: Problem) -> str | None:
    """Why a method cannot be fitted to a problem, or None where it can."""
    if problem.rule is not None and not method.learns(problem.rule):
        fits = " or ".join(method.selections) or "hard or topk"
        return f"cannot learn {problem.rule.name} selection; it learns {fits}"
    missing = [] if problem.table is None else method.missing(problem.table)
    return f"needs a column that the table lacks ({', '.join(missing)})" if missing else None


def _validation_utility(policy: Any, problem: Problem, seed: int) -> float:
    found = [problem.evaluate(policy, "validation", case, seed=seed) for case in problem.cases]
    return float(np.mean([each.means()["utility"] for each in found]))
