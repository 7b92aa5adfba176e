"""Definition of a command of the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Command", "Names"]


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names on a command line that determine which options exist.

    Attributes:
        env: name of the problem; `routing` if none is given.
        method: name of the method; None if none is given.
        for_help: whether the command line asks for help.
    """

    env: str = "routing"
    method: str | None = None
    for_help: bool = False


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of the command line.

    Attributes:
        run: function whose keyword arguments are the options and whose docstring is their help; an argument
            whose type is a dataclass stands for its fields. `--json` prints the return value; progress goes
            to stderr.
        view: formats the return value for the terminal.
        positional: name, type and help of positional arguments; one with a default in `run` is optional, and
            one of a list takes several words.
        switches: name and help of options without a value.
        groups: maps the names on the command line to options dataclasses by argument of `run`; each field
            becomes a flag `--ARGUMENT.FIELD`.
        keeps_config: write the options to config.yaml in its `out` folder.
        writes: options that name files or folders to write; none may be an input or lie inside one.
        documents: fields of the return value with texts of several lines, which `view` makes safe to print.
        changes: options that name a file or folder which is changed in place.
    """

    run: Callable[..., dict[str, Any]]
    view: Callable[[dict[str, Any]], Any] | None = None
    positional: tuple[tuple[str, Any, str], ...] = ()
    switches: tuple[tuple[str, str], ...] = ()
    groups: Callable[[Names], Mapping[str, type]] | None = None
    keeps_config: bool = False
    writes: tuple[str, ...] = ("out",)
    documents: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
