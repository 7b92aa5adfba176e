"""The arguments of a command's function, some of which stand for the fields of a dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from experts.io.checked_options import check_fields, checked_value

from .command import Command
from .error_text import METHOD_KEY

__all__ = ["GROUPS", "arguments_of", "boolean_options", "expanded", "option_kinds"]

GROUPS = ("problem", "objective", METHOD_KEY)
"""Arguments whose fields are flags `--ARGUMENT.FIELD`; fields of other dataclasses are flags `--FIELD`."""


def arguments_of(command: Command, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a command's function.

    Args:
        command: the command.
        values: value of each option, as parsed.

    Raises:
        InputError: a value is not of the type of its option, or out of its range.
    """
    arguments = dict(values)
    for name, options in expanded(command).items():
        arguments[name] = options(**{each.name: arguments.pop(each.name) for each in fields(options)})
        check_fields(arguments[name])
    hints = get_type_hints(command.run, include_extras=True)
    for name in arguments:
        if name not in GROUPS:
            arguments[name] = checked_value(name, arguments[name], hints[name])
    return arguments


def option_kinds(command: Command, groups: Mapping[str, type]) -> dict[str, Any]:
    """Return the type of every option, with its range, by its key in the parser.

    Args:
        command: the command.
        groups: options dataclasses by argument, as `command.groups` returns them.
    """
    hints = get_type_hints(command.run, include_extras=True)
    kinds = {name: kind for name, kind in hints.items() if name not in GROUPS}
    for options in expanded(command).values():
        kinds |= _field_kinds(options)
    for group, options in groups.items():
        kinds |= {f"{group}.{name}": kind for name, kind in _field_kinds(options).items()}
    return kinds


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


def _field_kinds(options: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass, and of the fields of the dataclasses in it."""
    hints = get_type_hints(options, include_extras=True)
    kinds: dict[str, Any] = {}
    for each in fields(options):
        kind = kinds[each.name] = hints[each.name]
        if is_dataclass(kind):
            kinds |= {f"{each.name}.{name}": inner for name, inner in _field_kinds(kind).items()}
    return kinds
