"""The problem that a command line describes, and the dataclasses of its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from experts import InputError

from ..methods.registry import find_method, method_names
from ..problems.registry import find_options, find_problem
from .command import Names
from .data_options import ComparedObjective, DataOptions
from .error_text import METHOD_KEY
from .values import numbers_in

if TYPE_CHECKING:
    from experts import OutcomeTable

    from ..problems.problem import Problem
    from ..routing import TextFeatures

__all__ = [
    "ComparedObjective",
    "DataOptions",
    "build_problem",
    "compare_groups",
    "default_method",
    "train_groups",
]


def train_groups(names: Names) -> Mapping[str, type]:
    """Return the options of a problem, the objective, and the hyperparameters of a method.

    The help without a method leaves the hyperparameters out: to list them, the method must be imported.

    Args:
        names: the names on the command line.
    """
    groups = compare_groups(names)
    if names.for_help and names.method is None:
        return groups
    from ..methods.method import Method, NoHyperparameters

    method = find_method(names.env, names.method or default_method(names.env))
    own = method.hyperparameters if isinstance(method, Method) else NoHyperparameters
    return {**groups, METHOD_KEY: own}


def compare_groups(names: Names) -> dict[str, type]:
    """Return the options of a problem, and the objective.

    Args:
        names: the names on the command line.
    """
    return {"problem": find_options(names.env), "objective": ComparedObjective}


def default_method(env: str) -> str:
    """Return the default method of a problem, its first one."""
    return method_names(env)[0]


def build_problem(
    data: DataOptions, options: Any, objective: ComparedObjective, weights: tuple[float, ...]
) -> Problem:
    """Return the problem that a command line describes.

    Args:
        data: name of the problem, and its table if it needs one.
        options: an instance of the problem's options dataclass.
        objective: the objective.
        weights: compute weights if the objective has none.

    Raises:
        InputError: an option is invalid, or the table is missing or cannot be used.
    """
    from experts import open_table

    from ..problems.objective import Objective

    env, table = data.env, data.table
    kind = find_problem(env)
    if not kind.needs_table:
        for name, value in (("table", table), ("log", data.log)):
            if value is not None:
                raise InputError(name, value, f"{env} does not use a table", "leave it out")
        if objective != ComparedObjective():
            raise InputError("objective", None, f"{env} has no objective weights", "leave --objective out")
        return kind(options=options)
    text = None
    if data.log is not None:
        rows, text = _logged(data)
    elif table is None and env == "routing":
        raise InputError("table", None, "there is no data", "give --table, or --env with data of its own")
    else:
        rows = open_table(table or "digits", allow_leakage=data.allow_leakage)
    _check_features(rows, options)
    given = {each.name: getattr(objective, each.name) for each in fields(objective)}
    for name, value in given.items():
        if name not in kind.objective_fields and value != getattr(ComparedObjective(), name):
            takes = ", ".join(each.replace("_", "-") for each in kind.objective_fields)
            raise InputError(f"objective.{name}", value, f"{env} does not use it", f"it uses {takes}")
    own = given.pop("compute_weight")
    compute_weights = weights if own is None else tuple(numbers_in("objective.compute_weight", own))
    if objective.budget is not None:
        compute_weights = (Objective().compute_weight,)
    objectives = [Objective(compute_weight=weight, **given) for weight in compute_weights]
    problem = kind(rows, objectives if len(objectives) > 1 else objectives[0], options=options)
    problem.text = problem.text if text is None else text
    return problem


def _logged(data: DataOptions) -> tuple[OutcomeTable, TextFeatures | None]:
    """Return the queries of a decision log with estimated outcomes, and the pipeline of their features."""
    from ..problems.log_table import read_logged

    assert data.log is not None
    if data.table is not None:
        raise InputError("log", data.log, "has no use beside a table", "give --table or --log")
    if data.env != "routing":
        fix = "leave --env out, or give --table"
        raise InputError("log", data.log, f"is no data of {data.env}, which needs all outcomes", fix)
    return read_logged(data.log)


def _check_features(rows: OutcomeTable, options: Any) -> None:
    """Raise InputError if features of prompts are configured for a table that has features of its own."""
    features = getattr(options, "features", None)
    if rows.features is None or features is None:
        return
    for each in fields(features):
        value = getattr(features, each.name)
        if value != getattr(type(features)(), each.name):
            reason = "is not used: the table has features of its own"
            fix = "leave it out, or drop the `features` column"
            raise InputError(f"problem.features.{each.name}", value, reason, fix)
