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
    from experts import DecisionLog, OutcomeTable

    from ..problems.problem import Problem

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
    from ..problems.objective import Objective

    env = data.env
    kind = find_problem(env)
    if not kind.needs_table:
        for name, value in (("table", data.table), ("log", data.log)):
            if value is not None:
                raise InputError(name, value, f"{env} does not use a table", "leave it out")
        if objective != ComparedObjective():
            raise InputError("objective", None, f"{env} has no objective weights", "leave --objective out")
        return kind(options=options)
    table, log = _rows(data)
    features = (
        log.features if table is None and log is not None else None if table is None else table.features
    )
    _check_features(features is not None, options)
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
    wanted = objectives if len(objectives) > 1 else objectives[0]
    if log is not None:
        return kind.of_log(log, wanted, table=table, options=options)
    return kind(table, wanted, options=options)


def _rows(data: DataOptions) -> tuple[OutcomeTable | None, DecisionLog | None]:
    """Return the table and the log that the options name; without either, the table of the digits."""
    from experts import DecisionLog, open_table

    from .log_source import log_file

    if data.table is None and data.log is None and data.env == "routing":
        raise InputError("table", None, "there is no data", "give --table, or --env with data of its own")
    if data.log is None:
        return open_table(data.table or "digits", allow_leakage=data.allow_leakage), None
    table = None if data.table is None else open_table(data.table, allow_leakage=data.allow_leakage)
    with log_file(data.log) as path:
        return table, DecisionLog.read(path, None if table is None else table.experts)


def _check_features(present: bool, options: Any) -> None:
    """Raise InputError if features of prompts are configured for rows that have features of their own."""
    features = getattr(options, "features", None)
    if not present or features is None:
        return
    for each in fields(features):
        value = getattr(features, each.name)
        if value != getattr(type(features)(), each.name):
            reason = "is not used: the table has features of its own"
            fix = "leave it out, or drop the `features` column"
            raise InputError(f"problem.features.{each.name}", value, reason, fix)
