"""JSON with limits, and the types of its fields, with the standard library alone.

`experts/io/json_types.py` has the same code: the inference floor imports torch only, and experts import no
router. A test compares them.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

__all__ = ["MAX_BYTES", "MAX_DEPTH", "check_type", "parse_json"]

MAX_BYTES = 256 << 20
MAX_DEPTH = 64

_PLAIN: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    None: ((NoneType,), "null"),
    NoneType: ((NoneType,), "null"),
}
_LISTS = (list, tuple, Sequence)
_OBJECTS = (dict, Mapping)


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text.

    Args:
        content: UTF-8, at most `MAX_BYTES`.

    Raises:
        ValueError: it is not JSON, names a key twice, holds a number that is not finite or beyond 64 bits,
            half a surrogate pair, or nests deeper than `MAX_DEPTH`; one line.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has {len(content)} bytes, more than {MAX_BYTES}")
    try:
        value = json.loads(
            content.decode(),
            object_pairs_hook=_object,
            parse_constant=_refused,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError:
        raise ValueError(f"it nests deeper than {MAX_DEPTH} levels") from None
    level, depth = [value], 0
    while level:
        if depth == MAX_DEPTH and any(isinstance(item, dict | list) for item in level):
            raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                item.encode()  # half a surrogate pair cannot be printed or written
        level, depth = below, depth + 1
    return value


def check_type(value: Any, hint: Any, where: str) -> None:
    """Check a value of JSON against a type.

    Args:
        value: what `parse_json` returned, or a part of it.
        hint: a type: bool, int, float, str, None, lists, dicts, unions, literals, a TypedDict (other keys are
            allowed), or a dataclass (other keys are not). Every other type is not checked.
        where: the field's name, for the error; empty for the whole text.

    Raises:
        ValueError: the value is of another type, or a field is missing or unknown; names the field; one line.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        if not _is_plain(value, hint):
            raise _mismatch(value, hint, where)
    elif origin is Literal:
        if not any(value == one and type(value) is type(one) for one in arguments):
            raise _mismatch(value, hint, where)
    elif origin in (Union, UnionType):
        _check_union(value, hint, where)
    elif hint in _LISTS or origin in _LISTS:
        if not isinstance(value, list | tuple):  # `spec` gives tuples where JSON has lists
            raise _mismatch(value, list, where)
        if origin is tuple and arguments[-1] is not ...:
            if len(value) != len(arguments):
                raise ValueError(f"{where} has {len(value)} entries, not {len(arguments)}")
            for index, (item, one) in enumerate(zip(value, arguments, strict=True)):
                check_type(item, one, f"{where}[{index}]")
        elif arguments and not (arguments[0] in _PLAIN and all(_is_plain(i, arguments[0]) for i in value)):
            for index, item in enumerate(value):
                check_type(item, arguments[0], f"{where}[{index}]")
    elif hint in _OBJECTS or origin in _OBJECTS:
        if not isinstance(value, dict):
            raise _mismatch(value, dict, where)
        for name, item in value.items() if arguments else ():
            check_type(item, arguments[1], _inside(where, name))
    elif is_typeddict(hint) or is_dataclass(hint):
        _check_fields(value, hint, where)


def _check_fields(value: Any, hint: Any, where: str) -> None:
    """Check the fields of a TypedDict or of a dataclass."""
    if not isinstance(value, dict):
        raise _mismatch(value, dict, where)
    hints = get_type_hints(hint)
    if is_dataclass(hint):
        own = [field for field in fields(hint) if field.init]
        required = {one.name for one in own if one.default is MISSING and one.default_factory is MISSING}
        for name in value:
            if name not in {field.name for field in own}:
                raise ValueError(f"{_inside(where, name)} is unknown")
    else:
        required = hint.__required_keys__
    for name in hints:
        if name in value:
            check_type(value[name], hints[name], _inside(where, name))
        elif name in required:
            raise ValueError(f"{_inside(where, name)} is missing")


def _check_union(value: Any, hint: Any, where: str) -> None:
    """Check that a value is of one of several types; names the part of it that is wrong, where it can."""
    errors: list[ValueError] = []
    for one in get_args(hint):
        try:
            check_type(value, one, where)
        except ValueError as error:
            if one not in _PLAIN:
                errors.append(error)
        else:
            return
    raise (
        errors[0]
        if len(errors) == 1 and isinstance(value, dict | list | tuple)
        else _mismatch(value, hint, where)
    )


def _is_plain(value: Any, hint: Any) -> bool:
    return isinstance(value, _PLAIN[hint][0]) and (hint is bool or not isinstance(value, bool))


def _mismatch(value: Any, hint: Any, where: str) -> ValueError:
    return ValueError(f"{where or 'the content'} is {reprlib.repr(value)}, not {_described(hint)}")


def _described(hint: Any) -> str:
    if hint in _PLAIN:
        return _PLAIN[hint][1]
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_described(one) for one in get_args(hint))
    return "a list" if hint in _LISTS or get_origin(hint) in _LISTS else "an object"


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has the key {reprlib.repr(twice)} twice")
    return value


def _refused(name: str) -> float:
    raise ValueError(f"it holds {name}, which JSON does not have")


def _finite(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError(f"it holds {reprlib.repr(digits)}, which is not finite")
    return float(digits)


def _whole(digits: str) -> int:
    if len(digits) > 21 or abs(int(digits)) >= 2**64:
        raise ValueError(f"it holds {reprlib.repr(digits)}, a whole number beyond 64 bits")
    return int(digits)
