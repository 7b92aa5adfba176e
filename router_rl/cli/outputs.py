"""The outputs of a command: apart from its inputs, and written by one process at a time."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, get_type_hints

from filelock import FileLock, Timeout

from experts import InputError
from experts.io.atomic import writable_folder
from experts.io.cache import cache_folder

from .command import Command
from .command_arguments import expanded

__all__ = ["check_words", "is_being_written", "reserved"]

_NAMED_BY_TEXT = ("table", "log", "experts", "prices")  # options that take a name or a path


def check_words(words: Sequence[str]) -> None:
    """Check that no option has an empty value, which would stand for the current folder.

    Args:
        words: the words of the command line.

    Raises:
        InputError: an option or a positional argument is empty.
    """
    for position, word in enumerate(words):
        option, equals, value = word.partition("=")
        if word == "":
            before = words[position - 1] if position and words[position - 1].startswith("--") else "argument"
            option, equals = before, "="
        if equals and value == "":
            raise InputError(option, "", "is empty", "give a value, or leave the option out")


@contextmanager
def reserved(command: Command, options: Mapping[str, Any]) -> Generator[None, None, None]:
    """Reserve the outputs of a command for this process, until the context ends.

    The locks are files of the cache folder, so that nothing is left beside the outputs; they end with the
    process. They do not protect against processes of another machine.

    Args:
        command: the command.
        options: value of each of its options.

    Raises:
        InputError: an output is one of the inputs or lies inside one, cannot be written, or is being written
            by another process.
    """
    outputs = {name: Path(options[name]) for name in command.writes if options.get(name) is not None}
    _check_apart(outputs, _inputs(command, options))
    for name, path in outputs.items():
        _check_writable(name, path)
    with ExitStack() as held:
        for name, path in outputs.items():
            held.enter_context(_locked(name, path))
        for name in command.changes:
            if options.get(name) is not None:
                held.enter_context(_locked(name, Path(options[name])))
        yield


def is_being_written(path: Path) -> bool:
    """Return whether a command of this machine has reserved an output.

    Args:
        path: the file or folder.
    """
    try:
        with _locked("out", path):
            return False
    except InputError:
        return True


def _inputs(command: Command, options: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """Return the options that name an existing file or folder to read, with the path."""
    hints = get_type_hints(command.run)
    for kind in expanded(command).values():
        hints |= get_type_hints(kind)
    paths = {name for name, hint in hints.items() if "Path" in str(hint)}
    inputs: list[tuple[str, Path]] = []
    for name in sorted((paths | set(_NAMED_BY_TEXT)) - set(command.writes)):
        value = options.get(name)
        each = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
        inputs += [(name, Path(one)) for one in each if isinstance(one, str | Path) and os.path.exists(one)]
    return inputs


def _check_apart(outputs: Mapping[str, Path], inputs: Sequence[tuple[str, Path]]) -> None:
    for name, path in outputs.items():
        output = Path(os.path.realpath(path))
        others = [*inputs, *((other, each) for other, each in outputs.items() if other < name)]
        for other, each in others:
            source = Path(os.path.realpath(each))
            if output == source:
                raise InputError(name, str(path), f"is also the {other}", "write to another path")
            if source in output.parents:
                raise InputError(name, str(path), f"lies inside the {other}", "write to another folder")


def _check_writable(name: str, path: Path) -> None:
    """Raise InputError if an output could not be written; nothing is created."""
    path = Path(os.path.realpath(path))
    place = path if path.is_dir() else path.parent
    while not os.path.lexists(place):
        place = place.parent
    writable_folder(name, place)


@contextmanager
def _locked(name: str, path: Path) -> Generator[None, None, None]:
    key = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:24]
    lock = FileLock(_lock_folder() / f"{key}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        problem, fix = "is being written by another process", "wait for it, or write to another path"
        raise InputError(name, str(path), problem, fix) from error
    try:
        yield
    finally:
        lock.release()


def _lock_folder() -> Path:
    try:
        return cache_folder("locks")
    except InputError:  # a home that cannot be written to
        folder = (
            Path(tempfile.gettempdir()) / f"router-rl-locks-{os.getuid() if hasattr(os, 'getuid') else ''}"
        )
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder
