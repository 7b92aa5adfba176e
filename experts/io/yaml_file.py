"""YAML files with limits, so that a hostile or mistaken file is an error of one line within seconds."""

from __future__ import annotations

import reprlib
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .errors import InputError

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "read_yaml"]

if TYPE_CHECKING:
    from yaml import SafeLoader
else:  # libyaml's is faster, where it is installed
    SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_BYTES = 4 << 20
MAX_DEPTH = 32
MAX_NODES = 200_000  # with every alias counted as often as it is used


def read_yaml(field: str, path: Path | str) -> Any:
    """Return the content of a YAML file: plain values only, read in bounded time and memory.

    Args:
        field: the option's name, for the error.
        path: a regular file in UTF-8 of at most `MAX_BYTES`.

    Raises:
        InputError: the file cannot be read, is not YAML, names a key twice, nests deeper than `MAX_DEPTH` or
            expands to more than `MAX_NODES` values; names the field and the path; one line.
    """
    text = _read_text(field, Path(path))
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Loader)
    # A malformed number or date is a ValueError, a key that is a list a TypeError.
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(field, str(path), f"is not YAML ({_line(error)})", "correct it") from error


def _read_text(field: str, path: Path) -> str:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            problem = "is a folder" if stat.S_ISDIR(about.st_mode) else "is not a regular file"
            raise InputError(field, str(path), problem, "give a YAML file")
        if about.st_size > MAX_BYTES:
            problem = f"has {about.st_size:,} bytes, more than {MAX_BYTES:,}"
            raise InputError(field, str(path), problem, "give a YAML file of options")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(field, str(path), f"is not YAML ({_line(error)})", "save it as UTF-8") from error
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(field, str(path), f"cannot be read ({reason})", "give a YAML file") from error


class _Loader(SafeLoader):
    """A safe loader that refuses a key that occurs twice, where YAML's own keeps the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping of a node."""
        names: set[tuple[str, str]] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in names:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {reprlib.repr(name[1])} occurs twice", key.start_mark
                )
            if name is not None and name[0] != "tag:yaml.org,2002:merge":
                names.add(name)
        return super().construct_mapping(node, deep=deep)


def _check_size(text: str) -> None:
    """Raise ValueError if the text nests too deeply, or has too many values once aliases are expanded."""
    sizes: dict[str, int] = {}  # of anchored values
    open_at: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the alias {reprlib.repr(event.anchor)} is not of a complete value")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_at.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_at.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        if len(open_at) > MAX_DEPTH:
            raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")
        if total > MAX_NODES:
            raise ValueError(f"it has more than {MAX_NODES:,} values")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
