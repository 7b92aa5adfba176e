"""Options of problems: frozen dataclasses that can be changed by name and written as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from experts.io.errors import unknown_name

from ..routing import Selection

__all__ = ["as_json", "options_as_json", "options_from_json", "with_changes"]

Options = TypeVar("Options")


def with_changes(options: Options, changes: Mapping[str, Any]) -> Options:
    """Return options with some fields changed; lists become tuples.

    Args:
        options: an options dataclass.
        changes: new values by field name.

    Raises:
        InputError: a field is unknown; the error suggests the nearest one.
    """
    known = {each.name: getattr(options, each.name) for each in fields(options)}  # type: ignore[arg-type]
    for name in changes:
        if name not in known:
            raise unknown_name("problem", name, known)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    return replace(options, **values) if values else options  # type: ignore[type-var]


def options_as_json(options: Any) -> dict[str, Any]:
    """Return all fields of an options dataclass as JSON, including nested dataclasses."""
    return {each.name: as_json(getattr(options, each.name)) for each in fields(options)}


def options_from_json(kind: type[Options], values: Mapping[str, Any], *, nested: bool = False) -> Options:
    """Return options from the JSON of `options_as_json`.

    Args:
        kind: type of the options.
        values: values by field; unknown fields are ignored, so that runs of other versions can be read.
        nested: whether fields that are dataclasses are read too; otherwise they keep their defaults.
    """
    default = kind()
    known: dict[str, Any] = {}
    for each in fields(default):  # type: ignore[arg-type]
        own = getattr(default, each.name)
        if each.name not in values or (is_dataclass(own) and not nested):
            continue
        value = values[each.name]
        known[each.name] = options_from_json(type(own), value, nested=True) if is_dataclass(own) else value
    return with_changes(default, known)


def as_json(value: Any) -> Any:
    """Return a value of an options dataclass as JSON."""
    if isinstance(value, Selection):
        return value.spec()
    if is_dataclass(value) and not isinstance(value, type):
        return options_as_json(value)
    if isinstance(value, Mapping):
        return {str(name): as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    return str(value) if isinstance(value, Path) else value
