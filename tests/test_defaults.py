"""Defaults and search spaces are those that the published tables were measured with.

After a change on purpose, `pytest tests/test_defaults.py --force-regen` writes them again, and the epoch of
`benchmarks/tables.yaml` says which tables are stale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from inspect import Parameter, signature
from typing import Any

import pytest
from pytest_regressions.data_regression import DataRegressionFixture

from router_rl.methods.method import Method
from router_rl.methods.registry import find_method, method_names
from router_rl.problems.registry import find_options
from router_rl.routing.selection import SELECTIONS
from router_rl.studies.compare import compare
from router_rl.studies.engines.jobs import Jobs
from router_rl.studies.operating_target import Target
from router_rl.studies.tuning.tune_options import SearchOptions, TuneBudget

PROBLEMS = ("routing", "cascade", "queueing", "caching", "session", "token_moe")
FACTS = ("family", "amortizes", "starts", "full_information", "sparse", "holds_budget")
COLUMNS = ("selections", "needs", "trains_on")


def plain(value: Any) -> Any:
    """Return a value as YAML can hold it: dataclasses by field, other objects by their type."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


def described(method: Any) -> dict[str, Any]:
    """Return what decides how a method is fitted and compared."""
    if not isinstance(method, Method):
        return {"bound": True}
    facts = {name: plain(getattr(method, name)) for name in (*FACTS, *COLUMNS)}
    return {
        **{name: value for name, value in facts.items() if value or name == "starts"},
        "defaults": plain(method.hyperparameters()),
        "space": plain(method.space),
    }


@pytest.mark.parametrize("problem", PROBLEMS)
def test_defaults_of_a_problem_and_its_methods(problem: str, data_regression: DataRegressionFixture) -> None:
    methods = {name: described(find_method(problem, name)) for name in method_names(problem)}
    data_regression.check({"options": plain(find_options(problem)()), "methods": methods})


def arguments(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a function's or a class's parameters."""
    defaults = {name: each.default for name, each in signature(function).parameters.items()}
    return {name: plain(value) for name, value in defaults.items() if value is not Parameter.empty}


def test_defaults_of_studies_and_selection_rules(data_regression: DataRegressionFixture) -> None:
    functions = (compare, Jobs, SearchOptions, Target, TuneBudget, *SELECTIONS.values())
    data_regression.check({function.__name__: arguments(function) for function in functions})
