"""One command of the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Command", "Names"]


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names on a command line that decide which other options there are.

    Attributes:
        env: the problem, `routing` if none was given.
        method: the method; None if none was given.
    """

    env: str = "routing"
    method: str | None = None


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of the command line.

    Attributes:
        run: its keyword arguments are the options, its docstring their help; what it returns is what `--json`
            prints. Progress goes to stderr.
        view: what is printed otherwise.
        positional: arguments without an option name, and their help; one with a default in `run` is optional.
        switches: options without a value, and their help.
        groups: the names given to options dataclasses by argument of `run`: each field becomes a flag
            `--ARGUMENT.FIELD`.
        keeps_config: write the options to config.yaml in its `out` folder.
    """

    run: Callable[..., dict[str, Any]]
    view: Callable[[dict[str, Any]], Any] | None = None
    positional: tuple[tuple[str, Any, str], ...] = ()
    switches: tuple[tuple[str, str], ...] = ()
    groups: Callable[[Names], Mapping[str, type]] | None = None
    keeps_config: bool = False
