"""Keyword arguments of an environment: checked by name before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from experts.io.errors import unknown_name

__all__ = ["config_from"]

Config = TypeVar("Config")


def config_from(config: type[Config], build: Callable[..., Any], arguments: Mapping[str, Any]) -> Config:
    """Build an environment's configuration from keyword arguments.

    The check raises an InputError, because Gymnasium appends every argument, tables included, to a TypeError.

    Args:
        config: the dataclass.
        build: the function that the user calls; its own parameters are listed with the fields.
        arguments: what the user gave for the fields.

    Raises:
        InputError: an argument is not a field; names it and the nearest one. Or a value is out of range.
    """
    known = [field.name for field in fields(config)]  # pyright: ignore[reportArgumentType] (a dataclass)
    for name in arguments:
        if name not in known:
            kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            own = [one.name for one in inspect.signature(build).parameters.values() if one.kind in kinds]
            raise unknown_name("argument", name, [*known, *(one for one in own if one != "lanes")])
    return config(**arguments)
