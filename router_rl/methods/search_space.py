"""The search space of a method: a range for each hyperparameter of `Method.space`, or a user's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from experts import InputError
from experts.io.checked_options import checked_value
from experts.io.errors import unknown_name
from experts.io.yaml_file import read_yaml

from .method import Method

__all__ = ["Choices", "Dimension", "Interval", "SearchSpace", "changed_space", "read_space", "search_space"]

_LOG_FROM = 4.0  # ratio of the largest to the smallest value from which a range is logarithmic
_WIDE = 10.0  # likewise, from which values with 0 among them are choices: a linear range would skip the small
_KEYS = ("low", "high", "log", "step")
_FIX = "write {low: 0.001, high: 0.1, log: true}, a list of values, or one value"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The numbers from `low` to `high`.

    Attributes:
        low: the smallest value.
        high: the largest value.
        log: whether values are drawn on a logarithmic scale.
        step: distance between values, from `low`; None: any value.
        whole: whether values are whole numbers.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def __contains__(self, value: Any) -> bool:
        """Return whether a value can be drawn, apart from the step."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def to_json(self) -> Any:
        """Return the range as a user writes it."""
        step = {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, **({"log": True} if self.log else {}), **step}


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Some values; a single one is fixed.

    Attributes:
        values: the values, at least one.
    """

    values: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        """Return whether it is one of the values."""
        return value in self.values

    def to_json(self) -> Any:
        """Return the values as a user writes them."""
        return list(self.values)


Dimension = Interval | Choices
SearchSpace = Mapping[str, Dimension]
"""The values of each hyperparameter that is searched or fixed, by name; the others keep their defaults."""


def search_space(method: Method) -> dict[str, Dimension]:
    """Return the ranges of a method's hyperparameters, which its `space` spans together with its defaults.

    Numbers are a range, logarithmic where the largest is at least 4 times the smallest. Other values are
    choices, and so are numbers with a 0 and powers of ten.

    Args:
        method: the method.
    """
    default, kinds = method.hyperparameters(), get_type_hints(method.hyperparameters)
    return {
        name: _spanned([*values, getattr(default, name)], kinds.get(name))
        for name, values in method.space.items()
    }


def read_space(path: Path | str, method: Method) -> dict[str, Dimension]:
    """Return a method's search space with the changes of a YAML file.

    Args:
        path: the file: for each hyperparameter a mapping of `low`, `high`, and `log: true` or `step`; a list
            of values; or one value, which is fixed.
        method: the method.

    Raises:
        InputError: the file cannot be read, or a hyperparameter or value in it is wrong.
    """
    content = read_yaml("space", path)
    if not isinstance(content, Mapping):
        raise InputError(
            "space", str(path), "is not a mapping of hyperparameters", "write `name: range` lines"
        )
    return changed_space(content, method)


def changed_space(content: Mapping[Any, Any], method: Method) -> dict[str, Dimension]:
    """Return a method's search space with other ranges for some hyperparameters.

    Args:
        content: ranges by name, as in the file of `read_space`.
        method: the method.

    Raises:
        InputError: a hyperparameter is unknown, or a value is not of its type or out of its range.
    """
    known = {each.name for each in fields(method.hyperparameters)}
    kinds = get_type_hints(method.hyperparameters, include_extras=True)
    space = search_space(method)
    for name, value in content.items():
        if name not in known:
            raise unknown_name(f"space.{name}", str(name), known)
        space[name] = _dimension(f"space.{name}", value, kinds[name])
    return space


def _spanned(values: Sequence[Any], kind: Any) -> Dimension:
    """Return the range of some values, or the values themselves where they are no range."""
    distinct = tuple(dict.fromkeys(values))
    if len(distinct) == 1 or not all(type(value) in (int, float) for value in distinct):
        return Choices(values=distinct)
    low, high = min(distinct), max(distinct)
    above = [value for value in distinct if value > 0]
    if low < 0 or (low == 0 and high >= _WIDE * min(above)):
        return Choices(values=tuple(sorted(distinct)))
    whole = kind is not float and all(type(value) is int for value in distinct)
    return Interval(low=low, high=high, log=low > 0 and high >= _LOG_FROM * low, whole=whole)


def _dimension(field: str, value: Any, kind: Any) -> Dimension:
    if isinstance(value, Mapping):
        return _interval(field, value, kind)
    if not isinstance(value, list):
        return Choices(values=(checked_value(field, value, kind),))
    if not value:
        raise InputError(field, value, "has no value", _FIX)
    values = tuple(checked_value(field, each, kind) for each in value)
    if any(values.count(each) > 1 for each in values):
        raise InputError(field, value, "has a value twice", "write each value once")
    return Choices(values=values)


def _interval(field: str, value: Mapping[Any, Any], kind: Any) -> Interval:
    for key in value:
        if key not in _KEYS:
            raise unknown_name(f"{field}.{key}", str(key), _KEYS)
    for key in ("low", "high"):
        if key not in value:
            raise InputError(field, dict(value), f"has no {key}", _FIX)
    low, high = (checked_value(f"{field}.{key}", value[key], kind) for key in ("low", "high"))
    if not all(type(end) in (int, float) for end in (low, high)):
        raise InputError(
            field, dict(value), "is a range of values that are no numbers", "write a list of values"
        )
    if not low < high:
        raise InputError(f"{field}.high", high, f"is not above low, {low}", "swap them, or write one value")
    log = checked_value(f"{field}.log", value.get("log", False), bool)
    if log and low <= 0:
        raise InputError(f"{field}.low", low, "has no logarithm", "use a low above 0, or log: false")
    whole, step = _is_whole(kind), value.get("step")
    if step is not None:
        step = checked_value(f"{field}.step", step, int if whole else float)
        if log or not 0 < step <= high - low or not math.isfinite(step):
            fix = f"use a step above 0 and at most {high - low:g}, and no log"
            raise InputError(f"{field}.step", step, "does not fit the range", fix)
    return Interval(low=low, high=high, log=log, step=step, whole=whole)


def _is_whole(kind: Any) -> bool:
    """Return whether the numbers of a type are whole, also where it is optional."""
    if get_origin(kind) is Annotated:
        return _is_whole(get_args(kind)[0])
    parts = get_args(kind)
    return kind is int or (bool(parts) and any(map(_is_whole, parts)) and float not in parts)
