"""The YAML file of the best configuration of `tune`, which `train --config` takes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from experts import InputError
from experts.io.atomic import replacing

from .log_source import without_passwords

__all__ = ["changed_options", "check_best", "write_best"]

_HEAD = "# Written by train_router.py tune; `train --config` takes it. SHA-256 of the lines below: "


def write_best(path: Path, options: Mapping[str, Any]) -> None:
    """Write a configuration of `train`, atomically.

    Args:
        path: the file.
        options: value of each option that is not its default.

    Raises:
        InputError: the file exists, and was changed by somebody or written by something else.
    """
    from ..problems.options import as_json  # imports torch

    check_best(path)
    body = without_passwords(yaml.safe_dump(as_json(options), sort_keys=False, allow_unicode=True))
    with replacing(path) as temporary:
        temporary.write_text(f"{_HEAD}{_digest(body)}\n{body}", encoding="utf-8")


def check_best(path: Path) -> None:
    """Check that a file can be replaced: it does not exist, or is as `write_best` wrote it.

    Args:
        path: the file.

    Raises:
        InputError: it is not.
    """
    if not path.exists():
        return
    try:
        head, _, body = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        head = body = ""
    if head != f"{_HEAD}{_digest(body)}":
        reason, fix = (
            "was not written by this command, or changed since",
            "move it away, or use another --out",
        )
        raise InputError("out", str(path), reason, fix)


def changed_options(options: Any) -> dict[str, Any]:
    """Return the fields of an options dataclass that differ from their defaults, those of fields in it too.

    Args:
        options: the options.
    """
    default = type(options)()
    changed: dict[str, Any] = {}
    for each in fields(options):
        value, before = getattr(options, each.name), getattr(default, each.name)
        if is_dataclass(value) and type(value) is type(before):
            inner = changed_options(value)
            changed |= {each.name: inner} if inner else {}
        elif value != before:
            changed[each.name] = value
    return changed


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
