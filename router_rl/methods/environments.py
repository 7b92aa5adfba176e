"""Every environment by its name on the command line. A new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experts import InputError
from experts.io.errors import unknown_name

from ..problems.problem import EnvKind, EnvMethod
from .caching.kind import CACHING
from .cascade.kind import CASCADE
from .queueing.kind import QUEUEING
from .token_moe.kind import TOKEN_MOE

__all__ = ["KINDS", "find_kind", "methods_of", "problem_of"]

KINDS: dict[str, EnvKind] = {kind.name: kind for kind in (CASCADE, QUEUEING, CACHING, TOKEN_MOE)}


def find_kind(name: str) -> EnvKind:
    """Look an environment up.

    Raises:
        InputError: unknown; suggests the nearest name.
    """
    if name not in KINDS:
        raise unknown_name("env", name, KINDS)
    return KINDS[name]


def problem_of(kind: EnvKind, table: str | None, options: Mapping[str, Any] | None) -> Any:
    """What a table and some options, in place of the defaults, pose.

    Raises:
        InputError: an option is unknown or out of range, or the table does not serve.
    """
    given = dict(options or {})
    for name in given:
        if name not in kind.options:
            raise unknown_name("options", name, kind.options)
    return kind.prepare(table, {**kind.options, **given})


def methods_of(kind: EnvKind, names: list[str] | None) -> list[EnvMethod]:
    """Methods by name, all if None, with those that are always there.

    Raises:
        InputError: a name is unknown.
    """
    wanted = list(kind.methods) if names is None else [*names, *kind.always]
    for name in wanted:
        if name not in kind.methods:
            raise unknown_name("methods", name, kind.methods)
    if not wanted:
        raise InputError("methods", names, "there are none", f"use some of {', '.join(kind.methods)}")
    return [kind.methods[name] for name in dict.fromkeys(wanted)]
