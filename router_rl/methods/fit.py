"""Fit one method to one problem, with hyperparameters selected on validation."""

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
        method: name of the method; `train_router.py list` shows all names.
        problem: with one case (`problem.at(case)`), unless the method serves all cases with one fit.
        seed: random seed.
        n_trials: number of hyperparameter settings to try; the one with the best validation utility is
            returned.
        hyperparameters: values of some of the method's hyperparameters; disables the search.
        callback: is called with a `Snapshot` after every validation.

    Returns:
        A `Router` for a routing problem, a policy with `start` and `act` for the others.

    Raises:
        InputError: a name is unknown, a value is invalid, or the problem has several cases.
        RouterError: the selection rule needs more experts than the table has.
    """
    learner = learnable(method, problem)
    if not amortizes(learner, problem) and len(problem.cases) > 1:
        labels = [case.label for case in problem.cases]
        reason = f"{method} is fitted to one case at a time"
        raise InputError("problem.cases", labels, reason, "give problem.at(case)")
    if hyperparameters is None:
        candidates = learner.candidates(n_trials)
    else:
        candidates = [learner.configure(hyperparameters)]
    run = Run(seed=seed, callback=callback)
    policies = [fit_method(learner, problem, each, run) for each in candidates]
    best = policies[0]
    if len(policies) > 1:
        best = max(policies, key=lambda policy: _validation_utility(policy, problem, seed))
    return problem.finish(best)


def learnable(name: str, problem: Problem) -> Method:
    """Return a method that can be fitted to a problem.

    Args:
        name: name of the method.
        problem: the problem.

    Raises:
        InputError: it is unknown, is a bound, or does not support the selection rule or the table.
    """
    method = find_method(problem.name, name)
    if isinstance(method, Bound):
        raise InputError("method", name, "is a bound that uses the outcomes", "choose another method")
    reason = check_method(method, problem)
    if reason is not None:
        raise InputError("method", name, reason, "choose another method, see `list`")
    return method


def check_method(method: Method, problem: Problem) -> str | None:
    """Return why a method cannot be fitted to a problem, or None if it can."""
    if (reason := method.refusal(problem)) is not None:
        return reason
    if problem.rule is not None and not method.learns(problem.rule):
        supported = " or ".join(method.selections) or "hard or topk"
        return f"does not support {problem.rule.name} selection; it supports {supported}"
    missing = [] if problem.table is None else method.missing(problem.table)
    return f"needs a column that the table lacks ({', '.join(missing)})" if missing else None


def _validation_utility(policy: Any, problem: Problem, seed: int) -> float:
    results = [problem.evaluate(policy, "tuning", case, seed=seed) for case in problem.cases]
    return float(np.mean([each.means()["utility"] for each in results]))
