"""Checks of options that are paths, before a command opens them."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experts import InputError

__all__ = ["check_paths"]

_TEXTS = ("table", "experts", "log")  # options that are texts, and may be paths
_PROBLEMS = {errno.ENAMETOOLONG: "is too long for a path", errno.ELOOP: "is a link to itself"}


def check_paths(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Check that the values of options that are paths can be paths; they need not exist.

    Args:
        values: value of each option.
        kinds: type of each option.

    Raises:
        InputError: a path is null, too long, a link to itself, or has a NUL.
    """
    for name, value in values.items():
        if "Path" in str(kinds.get(name)) or name in _TEXTS:
            parts = value.split(",") if name == "experts" and isinstance(value, str) else [value]
            for part in parts:
                if isinstance(part, Path) or (isinstance(part, str) and "://" not in part):
                    _check_path(name, part)


def _check_path(name: str, path: str | Path) -> None:
    if str(path) == "null":
        raise InputError(name, None, "is not a path", "give one")
    try:
        os.stat(path)
    except ValueError as error:
        raise InputError(name, str(path), f"is not a path ({error})", "give another path") from error
    except OSError as error:
        problem = _PROBLEMS.get(error.errno or 0)
        if problem is not None:
            raise InputError(name, str(path), problem, "give another path") from error
