"""Parse a command line into the keyword arguments of a command.

Flags and YAML keys are generated from signatures and options dataclasses. `--env` and `--method` determine
the dataclasses of `--problem.FIELD` and `--method.FIELD`, so both are read before the parser is built.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any, get_args, get_origin

import jsonargparse

from experts import InputError
from experts.io.errors import unknown_name

from ..methods.registry import method_names
from .command import Command, Names
from .command_arguments import GROUPS, expanded, option_kinds
from .command_parser import CommandParser
from .config_file import check_config, read_config, values_of
from .error_text import METHOD_KEY, as_typed
from .old_options import OLD

__all__ = ["build_parser", "names_given", "normalised"]


def normalised(words: Iterable[str]) -> list[str]:
    """Return the words with option names in the parser's form: underscores, and the key of hyperparameters.

    >>> normalised(["--objective.compute-weight=0.1", "--method.epochs", "3", "a-b"])
    ['--objective.compute_weight=0.1', '--hyperparameters.epochs', '3', 'a-b']
    """
    return [_normalised(word) for word in words]


def names_given(words: Sequence[str]) -> Names:
    """Return the problem and the method of a command line, or of its configuration file.

    Args:
        words: normalized words.

    Raises:
        InputError: the configuration file cannot be read.
    """
    content = read_config(words)
    given = {name: str(content[name]) for name in ("env", "method") if content.get(name) is not None}
    for name in ("env", "method"):
        values = values_of(name, words)
        if words and words[-1] == f"--{name}":
            raise InputError(name, "", "has no value", "give one")
        if values:
            given[name] = values[-1]
    for_help = any(word in ("-h", "--help") for word in words)
    return Names(env=given.get("env", "routing"), method=given.get("method"), for_help=for_help)


def build_parser(
    name: str, command: Command, names: Names, words: Sequence[str]
) -> jsonargparse.ArgumentParser:
    """Return the parser of one command.

    Args:
        name: name of the command.
        command: the command.
        names: problem and method of this command line.
        words: normalized words; an unknown option among them is an error.

    Raises:
        InputError: an option is unknown, is an old spelling, or does not belong to the problem or the method.
    """
    about = (command.run.__doc__ or "").split("\n")[0]
    parser = CommandParser(
        prog=f"train_router.py {name}", description=about, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="a YAML file of options")
    parser.add_argument("--json", action="store_true", help="print JSON")
    signature = inspect.signature(command.run).parameters
    for argument, kind, meaning in command.positional:
        default = signature[argument].default
        several = get_origin(kind) is list
        optional: dict[str, Any] = {}
        if default is not inspect.Parameter.empty:
            optional = {"nargs": "*" if several else "?", "default": default}
        parser.add_argument(argument, type=get_args(kind)[0] if several else kind, help=meaning, **optional)
    for switch, meaning in command.switches:
        parser.add_argument(f"--{switch}", action="store_true", help=meaning)
    groups = {} if command.groups is None else command.groups(names)
    parser.kinds = option_kinds(command, groups)
    dataclasses = expanded(command)
    skipped: set[str | int] = {row[0] for row in (*command.positional, *command.switches)}
    skipped.update(name for name in (*GROUPS, *dataclasses) if name in signature)
    parser.add_function_arguments(command.run, as_group=False, as_positional=False, skip=skipped)
    for options in dataclasses.values():
        parser.add_class_arguments(options, as_group=False)
    for argument, options in groups.items():
        default = {} if names.for_help else {"default": options()}  # some defaults are checked with torch
        parser.add_argument(f"--{argument}", type=options, **default)
    _check_known(words, parser, names, groups)
    check_config(read_config(words), parser)
    return parser


def _normalised(word: str) -> str:
    match = re.match(r"--[A-Za-z][\w.-]*", word)
    if match is None:
        return word
    name = match.group().replace("-", "_").replace("__", "--", 1)
    if name.startswith("--method."):
        name = f"--{METHOD_KEY}.{name.removeprefix('--method.')}"
    return name + word[match.end() :]


def _check_known(
    words: Sequence[str], parser: jsonargparse.ArgumentParser, names: Names, groups: Any
) -> None:
    known = {option for action in parser._actions for option in action.option_strings}
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not re.match(r"--[A-Za-z]", word):
            continue
        if option in known:
            following = "".join(words[place + 1 : place + 2])
            _check_group(option, value if equals else following, known)
            continue
        parents = [option.rsplit(".", depth)[0] for depth in range(1, option.count(".") + 1)]
        if any(parent in known and parent.count(".") for parent in parents):
            continue  # an entry of an option that is a mapping
        raise _unknown(option.removeprefix("--"), known, names, groups)


def _check_group(option: str, value: str, known: set[str]) -> None:
    """Check that an option with fields is given as a mapping: other words would name a file of them."""
    if any(each.startswith(f"{option}.") for each in known) and not value.lstrip().startswith("{"):
        name = as_typed(option.removeprefix("--"))
        fix = f"give its fields, such as --{name}.FIELD"
        raise InputError(name, value, "is not a mapping", fix)


def _unknown(option: str, known: set[str], names: Names, groups: Any) -> InputError:
    typed = option.replace(f"{METHOD_KEY}.", "method.").replace("_", "-")
    first = typed.partition(".")[0]
    old_field = typed in OLD and _as_key(OLD[typed]) in known
    if "." in typed and not old_field and first in ("problem", "method", "objective"):
        key = METHOD_KEY if first == "method" else first
        if key not in groups:
            return InputError("option", f"--{typed}", "this command does not take it", "leave it out")
        owner = (names.method or method_names(names.env)[0]) if first == "method" else names.env
        takes = ", ".join(_fields_of(key, known)) or "none"
        return InputError("option", f"--{typed}", f"is not an option of {owner}", f"it takes {takes}")
    old = typed if typed in OLD else first
    if old in OLD:
        new = OLD[old] + typed.removeprefix(old)
        if not _is_taken(new, known, groups):
            return InputError("option", f"--{typed}", "this command does not take it", "leave it out")
        return InputError("option", f"--{typed}", "is the spelling of version 1", f"write --{new}")
    shown = (each for each in known if each.startswith("--") and "." not in each and not each.endswith("+"))
    options = sorted(each.removeprefix("--").replace("_", "-") for each in shown)
    return unknown_name("option", f"--{typed}", [f"--{each}" for each in options])


def _as_key(option: str) -> str:
    """Return an option as the parser knows it."""
    return normalised([f"--{option}"])[0]


def _fields_of(group: str, known: set[str]) -> list[str]:
    """Return the fields of a group of options, as the user types them."""
    prefix = f"--{group}."
    fields = (each.removeprefix(prefix) for each in known if each.startswith(prefix))
    return sorted(field.replace("_", "-") for field in fields if field.rpartition(".")[2] != "help")


def _is_taken(option: str, known: set[str], groups: Any) -> bool:
    """Return whether a command takes an option, or has options of its group."""
    group = option.partition(".")[0]
    if "." in option:
        return (METHOD_KEY if group == "method" else group) in groups
    return f"--{option.replace('-', '_')}" in known
