"""Options that `train` and `compare` share, and the problem that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from experts import InputError, open_table

from ..methods.method import Method, NoHyperparameters
from ..methods.registry import find_method, method_names
from ..problems.objective import Objective
from ..problems.problem import Problem
from ..problems.registry import find_problem
from .command import Names
from .values import numbers_in

__all__ = [
    "ComparedObjective",
    "DataOptions",
    "build_problem",
    "compare_groups",
    "default_method",
    "train_groups",
]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The problem, and the outcomes that it is about.

    Attributes:
        table: a Parquet file or the name of a source, see `list`.
        env: the problem, see `list`.
        allow_leakage: accept prompts that are in two splits; every output then says so.
    """

    table: str | None = None
    env: str = "routing"
    allow_leakage: bool = False


@dataclass(frozen=True, kw_only=True)
class ComparedObjective:
    """The objective: one case per compute weight.

    Attributes:
        compute_weight: utility per unit of compute, comma-separated; null: the problem's default.
        load_weight: utility per unit of load, at least 0.
        window: decisions per window of the load penalty.
        budget: maximum mean compute per query, in place of the compute weights; the most expensive expert
            costs 1.
        max_cost: maximum mean compute of an expert; more expensive experts are never selected.
    """

    compute_weight: list[float] | float | str | None = None
    load_weight: float = 0.0
    window: int = 256
    budget: float | None = None
    max_cost: float | None = None


def train_groups(names: Names) -> Mapping[str, type]:
    """Return the options of a problem, the objective, and the hyperparameters of a method."""
    problem = find_problem(names.env).options_type
    method = find_method(names.env, names.method or default_method(names.env))
    own = method.hyperparameters if isinstance(method, Method) else NoHyperparameters
    return {
        "problem": problem,
        "objective": ComparedObjective,
        "hyperparameters": own,
    }


def compare_groups(names: Names) -> Mapping[str, type]:
    """Return the options of a problem, and the objective."""
    return {"problem": find_problem(names.env).options_type, "objective": ComparedObjective}


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
    env, table = data.env, data.table
    kind = find_problem(env)
    if not kind.needs_table:
        if table is not None:
            raise InputError("table", table, f"{env} does not use a table", "leave it out")
        if objective != ComparedObjective():
            raise InputError("objective", None, f"{env} has no objective weights", "leave --objective out")
        return kind(options=options)
    if table is None and env == "routing":
        raise InputError("table", None, "there is no data", "give --table, or --env with data of its own")
    rows = open_table(table or "digits", allow_leakage=data.allow_leakage)
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
    return kind(rows, objectives if len(objectives) > 1 else objectives[0], options=options)
