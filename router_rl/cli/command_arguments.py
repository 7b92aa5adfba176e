"""The arguments of a command's function, some of which stand for the fields of a dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from .command import Command
from .error_text import METHOD_KEY

__all__ = ["GROUPS", "arguments_of", "boolean_options", "expanded"]

GROUPS = ("problem", "objective", METHOD_KEY)
"""Arguments whose fields are flags `--ARGUMENT.FIELD`; fields of other dataclasses are flags `--FIELD`."""


def arguments_of(command: Command, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a command's function.

    Args:
        command: the command.
        values: value of each option, as parsed.
    """
    arguments = dict(values)
    for name, options in expanded(command).items():
        arguments[name] = options(**{each.name: arguments.pop(each.name) for each in fields(options)})
    return arguments


def boolean_options(command: Command) -> set[str]:
    """Return the names of a command's boolean options, apart from its switches."""
    hints = get_type_hints(command.run)
    for options in expanded(command).values():
        hints |= get_type_hints(options)
    return {name for name, kind in hints.items() if kind is bool} - {name for name, _ in command.switches}


def expanded(command: Command) -> dict[str, Any]:
    """Return the arguments of a command that stand for the fields of a dataclass, with the dataclass."""
    hints = get_type_hints(command.run)
    return {name: kind for name, kind in hints.items() if is_dataclass(kind) and name not in GROUPS}
