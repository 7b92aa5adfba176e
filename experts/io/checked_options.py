"""Options whose values are checked against the types and ranges of their fields.

    @dataclass(frozen=True, kw_only=True)
    class PPOHyperparameters(Hyperparameters):
        learning_rate: Positive = 3e-4

A value of the wrong type or out of range is an `InputError` when the options are made.
"""

from __future__ import annotations

import math
import operator
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from .errors import InputError, unknown_name
from .value_range import LARGEST, Range

__all__ = ["CheckedOptions", "check_fields", "checked_value", "wrong_type"]


@dataclass(frozen=True, kw_only=True)
class CheckedOptions:
    """Base of options dataclasses: checks every value when an instance is made.

    Whole numbers of a field of type float become floats, lists become tuples.

    Attributes:
        prefix: the name of the options in errors, such as `method` in `method.learning_rate`.

    Raises:
        InputError: a value is not of the type of its field, or out of its range.
    """

    prefix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_fields(self, self.prefix)


def check_fields(options: Any, prefix: str = "") -> None:
    """Check the values of an options dataclass, and convert them to the types of their fields.

    Args:
        options: an instance of a dataclass.
        prefix: the name of the options in errors.

    Raises:
        InputError: a value is not of the type of its field, or out of its range.
    """
    hints = _hints(type(options))
    for each in fields(options):
        value = getattr(options, each.name)
        converted = checked_value(f"{prefix}.{each.name}" if prefix else each.name, value, hints[each.name])
        if converted is not value:
            object.__setattr__(options, each.name, converted)


def checked_value(field: str, value: Any, kind: Any) -> Any:
    """Return a value as its type says: whole numbers as floats for float, lists as tuples for tuple.

    Args:
        field: name of the option, for the error.
        value: the value.
        kind: the type: bool, int, float, str, Path, Literal, tuples, lists, mappings, unions of these, and
            `Annotated` with a `Range`. Numbers must be finite. Values of other types must be instances.

    Raises:
        InputError: the value is not of the type, or out of its range.
    """
    try:
        return _converted(value, kind, None)
    except _WrongTypeError:
        raise wrong_type(field, value, kind) from None
    except _OutOfRangeError as error:
        raise InputError(field, _as_typed(value), error.problem, f"use {_described(kind)}") from None


def wrong_type(field: str, value: Any, kind: Any) -> InputError:
    """Return the error of a value that is not of a type.

    Args:
        field: name of the option.
        value: the value.
        kind: the type, as for `checked_value`.
    """
    choices = _choices(kind)
    if choices:
        return unknown_name(field, str(value), choices)
    problem = f"is not {_described(kind, ranges=False)}"
    return InputError(field, _as_typed(value), problem, f"use {_described(kind)}")


def _as_typed(value: Any) -> Any:
    """Return a tuple as the list that a user writes."""
    return list(value) if isinstance(value, tuple) else value


class _WrongTypeError(Exception):
    """A value of another type."""


class _OutOfRangeError(Exception):
    """A value out of the range of its type.

    Args:
        problem: what is wrong with the value.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@cache
def _hints(options: type) -> dict[str, Any]:
    return get_type_hints(options, include_extras=True)


def _converted(value: Any, kind: Any, allowed: Range | None) -> Any:
    """Return a value of a type, or raise one of the two errors above."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        ranges = [part for part in parts[1:] if isinstance(part, Range)]
        return _converted(value, parts[0], ranges[0] if ranges else allowed)
    if origin in (Union, types.UnionType):
        return _of_one(value, parts, allowed)
    if origin is Literal:
        if not any(value == part and type(value) is type(part) for part in parts):
            raise _WrongTypeError
        return value
    if kind is int or kind is float:
        return _number(value, kind, allowed)
    if origin is tuple or origin is list or origin is Sequence:
        return _items(value, origin, parts, allowed)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise _WrongTypeError
        return value
    if kind in (Any, None, type(None)):
        if kind is not Any and value is not None:
            raise _WrongTypeError
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if is_dataclass(kind) and isinstance(value, Mapping):  # of a file
        if not {str(name) for name in value} <= {each.name for each in fields(kind)}:
            raise _WrongTypeError
        make: Any = kind
        return make(**value)
    if isinstance(origin or kind, type) and not isinstance(value, origin or kind):
        raise _WrongTypeError
    return value


def _of_one(value: Any, kinds: Sequence[Any], allowed: Range | None) -> Any:
    """Return a value of one of several types; a number out of the range of one is out of range."""
    wrong: Exception = _WrongTypeError()
    # A value that is already of a type stays as it is: a text that could be a path, a whole number.
    for kind in sorted(kinds, key=lambda kind: type(value) is not (get_origin(_bare(kind)) or _bare(kind))):
        try:
            return _converted(value, kind, allowed)
        except _OutOfRangeError as error:
            wrong = error
        except _WrongTypeError:
            continue
    raise wrong


def _number(value: Any, kind: type, allowed: Range | None) -> int | float:
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise _WrongTypeError
    try:
        number = operator.index(value) if kind is int else float(value)
    except (TypeError, ValueError, OverflowError):
        raise _WrongTypeError from None
    if isinstance(number, float) and not math.isfinite(number):
        raise _OutOfRangeError("is not finite")
    if allowed is not None and number not in allowed:
        raise _OutOfRangeError("is out of range")
    if kind is int and (allowed is None or math.isinf(allowed.high)) and abs(number) > LARGEST:
        raise _OutOfRangeError(f"is above {LARGEST:,}" if number > 0 else f"is below {-LARGEST:,}")
    return value if type(value) is kind else number


def _items(value: Any, origin: Any, kinds: Sequence[Any], allowed: Range | None) -> Any:
    if not isinstance(value, list | tuple):
        raise _WrongTypeError
    if origin is tuple and not (len(kinds) == 2 and kinds[1] is ...):
        if len(value) != len(kinds):
            raise _WrongTypeError
        items = [_converted(item, kind, allowed) for item, kind in zip(value, kinds, strict=True)]
    else:
        items = [_converted(item, kinds[0], allowed) for item in value]
    wanted = list if origin is list else tuple
    same = type(value) is wanted and all(a is b for a, b in zip(items, value, strict=True))
    return value if same else wanted(items)


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _choices(kind: Any) -> list[str]:
    """Return the choices of a Literal, optional or not; empty for other types."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    literals = [one for one in kinds if get_origin(one) is Literal]
    if not literals or any(one not in (*literals, type(None)) for one in kinds):
        return []
    return [str(choice) for one in literals for choice in get_args(one)]


_PLAIN = {
    bool: ("true or false", "booleans"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    Path: ("a path", "paths"),
    type(None): ("null", "nulls"),
}


def _described(kind: Any, *, many: bool = False, ranges: bool = True) -> str:
    """Return a type in words: `a number above 0`, `a list of whole numbers of at least 1 or null`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        of = [f" {part!r}" for part in parts[1:] if isinstance(part, Range) and ranges]
        return _described(parts[0], many=many, ranges=ranges) + "".join(of)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_described(part, many=many, ranges=ranges) for part in parts))
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (tuple, list, Sequence):
        items = _described(parts[0], many=True, ranges=ranges)
        fixed = origin is tuple and not (len(parts) == 2 and parts[1] is ...)
        return f"a list of {len(parts)} {items}" if fixed else f"a list of {items}"
    if kind in _PLAIN:
        return _PLAIN[kind][many]
    if (isinstance(origin or kind, type) and issubclass(origin or kind, Mapping)) or is_dataclass(kind):
        return "a mapping"
    return "of the right type"
