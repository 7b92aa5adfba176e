"""The configuration file of a command line: its content, checked before the parser reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import jsonargparse

from experts import InputError
from experts.io.checked_options import wrong_type
from experts.io.errors import unknown_name
from experts.io.yaml_file import read_yaml

from .error_text import METHOD_KEY
from .old_options import OLD

__all__ = ["check_config", "read_config", "values_of"]

_COMMAND_LINE = {"config", "help", "print_config"}  # options that a file cannot have


def read_config(words: Sequence[str]) -> dict[str, Any]:
    """Return the content of the configuration files on a command line, merged; empty if there is none.

    Args:
        words: normalized words.

    Raises:
        InputError: a file cannot be read, is too large, nests too deeply, or is not a mapping of options.
    """
    merged: dict[str, Any] = {}
    for path in values_of("config", words):
        content = read_yaml("config", path)
        if not isinstance(content, dict):
            problem = f"is {_named(content)}, not a mapping of options"
            raise InputError("config", path, problem, "write one `option: value` a line")
        merged |= content
    return merged


def values_of(option: str, words: Sequence[str]) -> list[str]:
    """Return the values of an option, given as `--option value` or `--option=value`.

    Args:
        option: its name.
        words: normalized words.
    """
    following = pairwise(words)
    given = {place: after for place, (word, after) in enumerate(following) if word == f"--{option}"}
    for place, word in enumerate(words):
        if word.startswith(f"--{option}="):
            given[place] = word.partition("=")[2]
    return [given[place] for place in sorted(given)]


def check_config(content: Mapping[Any, Any], parser: jsonargparse.ArgumentParser, group: str = "") -> None:
    """Check the keys of a configuration file.

    Args:
        content: the content, or that of one group of options in it.
        parser: the parser of the command.
        group: key of the group with a dot at its end; empty for the whole file.

    Raises:
        InputError: a key is no option, is one of version 1, or has a value where it needs a mapping.
    """
    known = {option.removeprefix("--") for action in parser._actions for option in action.option_strings}
    known = {name for name in known if not name.startswith("-") and not name.endswith(("+", ".help"))}
    known = (known | {action.dest for action in parser._actions}) - _COMMAND_LINE
    switches = {action.dest for action in parser._actions if action.const is True}
    for key, value in content.items():
        if not isinstance(key, str):
            fix = "put it in quotes: YAML reads on, off, yes, no and numbers otherwise"
            raise InputError("config", key, "is not the name of an option", fix)
        name = f"{group}{key}"
        _check_old(name, value, known)
        if name not in known:
            names = [each.removeprefix(group) for each in known if each.startswith(group)]
            raise unknown_name("config", name, [f"{group}{each}" for each in names if "." not in each])
        if any(each.startswith(f"{name}.") for each in known):
            if not isinstance(value, Mapping):
                raise InputError(name, value, "is not a mapping", "write its fields below it")
            check_config(value, parser, f"{name}.")
        elif name in switches and not isinstance(value, bool):
            raise wrong_type(name, value, bool)


def _check_old(name: str, value: Any, known: set[str]) -> None:
    """Raise InputError if a key is the spelling of version 1."""
    fields = [f"{name}.{field}" for field in value] if isinstance(value, Mapping) else []
    for written in (*fields, name):
        option = written.replace("_", "-")
        old = option if "." in option and option in OLD else option.partition(".")[0]
        if old not in OLD or (old != option and name in known) or written in known:
            continue
        new = (OLD[old] + option.removeprefix(old)).replace("-", "_")
        new = re.sub(r"^method\b", METHOD_KEY, new).replace(".", ": ")
        raise InputError("config", written, "is the spelling of version 1", f"write {new}")


def _named(content: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "empty"}
    return kinds.get(type(content), "a number")
