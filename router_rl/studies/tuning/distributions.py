"""A search space in Optuna's terms, and its parameters as hyperparameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna

from ...methods.method import Method
from ...methods.search_space import Dimension, Interval, SearchSpace
from ...problems.options import as_json

__all__ = ["default_parameters", "hyperparameters_of", "searched", "suggested"]

_PLAIN = (type(None), bool, int, float, str)


def searched(space: SearchSpace) -> dict[str, Dimension]:
    """Return the dimensions with more than one value."""
    return {name: each for name, each in space.items() if isinstance(each, Interval) or len(each.values) > 1}


def suggested(trial: optuna.Trial, space: SearchSpace) -> dict[str, Any]:
    """Return the sampled parameters of a trial, and store them in it.

    Args:
        trial: a running trial.
        space: the search space.
    """
    return {name: _suggested(trial, name, dimension) for name, dimension in searched(space).items()}


def default_parameters(method: Method, space: SearchSpace) -> dict[str, Any] | None:
    """Return the parameters of the method's defaults; None if they are not in the space.

    Args:
        method: the method.
        space: the search space.
    """
    default = method.hyperparameters()
    if any(getattr(default, name) not in dimension for name, dimension in space.items()):
        return None
    return {name: _encoded(getattr(default, name)) for name in searched(space)}


def hyperparameters_of(parameters: Mapping[str, Any], method: Method, space: SearchSpace) -> Any:
    """Return the hyperparameters of a trial.

    Args:
        parameters: as `suggested` returns them.
        method: the method.
        space: the search space.

    Raises:
        InputError: the values do not fit each other.
    """
    values: dict[str, Any] = {}
    for name, dimension in space.items():
        if isinstance(dimension, Interval):
            values[name] = parameters[name]
        else:
            by_code = {_encoded(value): value for value in dimension.values}
            values[name] = by_code[parameters[name]] if name in parameters else dimension.values[0]
    return method.configure(values)


def _suggested(trial: optuna.Trial, name: str, dimension: Dimension) -> Any:
    if not isinstance(dimension, Interval):
        return trial.suggest_categorical(name, [_encoded(value) for value in dimension.values])
    if dimension.whole:
        step = int(dimension.step or 1)
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), step=step, log=dimension.log)
    return trial.suggest_float(name, dimension.low, dimension.high, step=dimension.step, log=dimension.log)


def _encoded(value: Any) -> Any:
    """Return a value that Optuna can store: itself, or its JSON text."""
    return value if isinstance(value, _PLAIN) else json.dumps(as_json(value))
