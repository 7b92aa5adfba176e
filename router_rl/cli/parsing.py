"""From the words of a command line to the keyword arguments of a command.

Flags and YAML keys are generated from signatures and options dataclasses. `--env` and `--method` decide which
dataclasses stand behind `--problem.FIELD` and `--method.FIELD`, so both are read before the parser is built.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from experts import InputError
from experts.io.errors import unknown_name

from ..methods.registry import method_names
from .command import Command, Names

__all__ = ["build_parser", "names_given", "normalised", "one_line"]

# Spellings of version 1 and what stands in their place.
_OLD = {
    "tries": "n-trials",
    "settings": "method",
    "options": "problem",
    "limit": "objective.max-cost",
    "objective.limit": "objective.max-cost",
    "load-weight": "objective.load-weight",
    "window": "objective.window",
    "budget": "objective.budget",
    "select": "problem.select",
    "k": "problem.k",
    "tree": "problem.tree",
    "scorer": "problem.scorer",
    "observe-load": "problem.observe-load",
    "feedback": "problem.feedback",
    "log": "problem.log",
    "features": "problem.features",
    "device": "problem.device",
    "compile": "problem.compile",
}
# The method's own fields stand beside its name; jsonargparse needs another key for them.
_METHOD_KEY = "hyperparameters"


def normalised(words: Iterable[str]) -> list[str]:
    """The words with option names as the parser knows them: underscores, and hyperparameters by their key.

    >>> normalised(["--objective.compute-weight=0.1", "--method.epochs", "3", "a-b"])
    ['--objective.compute_weight=0.1', '--hyperparameters.epochs', '3', 'a-b']
    """
    return [_normalised(word) for word in words]


def names_given(words: Sequence[str]) -> Names:
    """The problem and the method on a command line, or in its configuration file.

    Raises:
        InputError: the configuration file cannot be read.
    """
    found: dict[str, str] = {}
    config = _value_of("config", words)
    if config is not None:
        try:
            content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise InputError(
                "config", config, f"cannot be read ({one_line(error)})", "give a YAML file"
            ) from error
        if isinstance(content, dict):
            found = {name: str(content[name]) for name in ("env", "method") if content.get(name)}
    for name in ("env", "method"):
        value = _value_of(name, words)
        if value is not None:
            found[name] = value
    return Names(env=found.get("env", "routing"), method=found.get("method"))


def build_parser(
    name: str, command: Command, names: Names, words: Sequence[str]
) -> jsonargparse.ArgumentParser:
    """The parser of one command.

    Args:
        name: of the command.
        command: it.
        names: on this command line.
        words: normalised; an option that the parser lacks is an error here.

    Raises:
        InputError: an option is unknown, is an old spelling, or is not one of the problem or the method.
    """
    about = (command.run.__doc__ or "").split("\n")[0]
    parser = jsonargparse.ArgumentParser(
        prog=f"train_router.py {name}", description=about, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="a YAML file of options")
    parser.add_argument("--json", action="store_true", help="print JSON")
    signature = inspect.signature(command.run).parameters
    for argument, kind, meaning in command.positional:
        default = signature[argument].default
        optional: dict[str, Any] = (
            {} if default is inspect.Parameter.empty else {"nargs": "?", "default": default}
        )
        parser.add_argument(argument, type=kind, help=meaning, **optional)
    for switch, meaning in command.switches:
        parser.add_argument(f"--{switch}", action="store_true", help=meaning)
    groups = {} if command.groups is None else command.groups(names)
    grouped = [each for each in ("problem", "objective", _METHOD_KEY) if each in signature]
    skipped: set[str | int] = {row[0] for row in (*command.positional, *command.switches)}
    skipped.update(grouped)
    parser.add_function_arguments(command.run, as_group=False, as_positional=False, skip=skipped)
    for argument, options in groups.items():
        parser.add_argument(f"--{argument}", type=options, default=options())
    _check_known(words, parser, names, groups)
    return parser


def one_line(error: Exception | str) -> str:
    """An error's text on one line, options spelled as the user types them."""
    text = " ".join(str(error).split())
    return re.sub(rf"(?<![\w/]){_METHOD_KEY}\.(\w+)", r"method.\1", text)


def _normalised(word: str) -> str:
    match = re.match(r"--[A-Za-z][\w.-]*", word)
    if match is None:
        return word
    name = match.group().replace("-", "_").replace("__", "--", 1)
    if name.startswith("--method."):
        name = f"--{_METHOD_KEY}.{name.removeprefix('--method.')}"
    return name + word[match.end() :]


def _value_of(option: str, words: Sequence[str]) -> str | None:
    """The value of an option, as `--option value` or `--option=value`."""
    for place, word in enumerate(words):
        if word == f"--{option}" and place + 1 < len(words):
            return words[place + 1]
        if word.startswith(f"--{option}="):
            return word.partition("=")[2]
    return None


def _check_known(
    words: Sequence[str], parser: jsonargparse.ArgumentParser, names: Names, groups: Any
) -> None:
    known = {option for action in parser._actions for option in action.option_strings}
    for word in words:
        option = word.partition("=")[0]
        if not re.match(r"--[A-Za-z]", word) or option in known:
            continue
        parents = [option.rsplit(".", depth)[0] for depth in range(1, option.count(".") + 1)]
        if any(parent in known and parent.count(".") for parent in parents):
            continue  # an entry of an option that is a mapping
        raise _unknown(option.removeprefix("--"), known, names, groups)


def _unknown(option: str, known: set[str], names: Names, groups: Any) -> InputError:
    typed = option.replace(f"{_METHOD_KEY}.", "method.").replace("_", "-")
    first = typed.partition(".")[0]
    if "." in typed and typed not in _OLD and first in ("problem", "method", "objective"):
        key = _METHOD_KEY if first == "method" else first
        if key not in groups:
            return InputError("option", f"--{typed}", "this command does not take it", "leave it out")
        owner = (names.method or method_names(names.env)[0]) if first == "method" else names.env
        takes = ", ".join(_fields_of(key, known)) or "none"
        return InputError("option", f"--{typed}", f"is not an option of {owner}", f"it takes {takes}")
    old = typed if typed in _OLD else first
    if old in _OLD:
        new = _OLD[old] + typed.removeprefix(old)
        if not _is_taken(new, known, groups):
            return InputError("option", f"--{typed}", "this command does not take it", "leave it out")
        return InputError("option", f"--{typed}", "is the spelling of version 1", f"write --{new}")
    options = sorted(each.removeprefix("--").replace("_", "-") for each in known if each.count(".") == 0)
    return unknown_name("option", f"--{typed}", [f"--{each}" for each in options])


def _fields_of(group: str, known: set[str]) -> list[str]:
    """The fields of a group of options, as the user types them."""
    prefix = f"--{group}."
    fields = (each.removeprefix(prefix) for each in known if each.startswith(prefix))
    return sorted(field.replace("_", "-") for field in fields if field.rpartition(".")[2] != "help")


def _is_taken(option: str, known: set[str], groups: Any) -> bool:
    """Whether a command takes an option, or has options of its group."""
    group = option.partition(".")[0]
    if "." in option:
        return (_METHOD_KEY if group == "method" else group) in groups
    return f"--{option.replace('-', '_')}" in known
