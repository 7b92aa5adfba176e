"""A process that is killed at one of its file operations, inside this process.

While the hooks are on, every operation that changes a file or folder below a root is counted. At the chosen
one `Killed` is raised in its place. From then on the process is dead: each further operation raises too, so
no `finally` cleans up, and what open files still buffer goes nowhere.

TensorBoard's logs are left out: a thread writes them, and they are only appended to.

The hooks see Python's own file functions, and the writers of safetensors, Parquet and `renameat2`. Writing a
file is two operations: before it starts, and when half of it is written. Of a SQLite database they see what
changes it: each statement, and the commit. What happens inside a commit is SQLite's to get right.
"""

from __future__ import annotations

import builtins
import gc
import importlib
import io
import os
import pathlib
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

__all__ = ["FileOperations", "Killed", "counted", "killed_at"]

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_UNNAMED = getattr(os, "O_TMPFILE", 0)
_ONE_PATH = ("mkdir", "rmdir", "unlink", "remove", "truncate")
_TWO_PATHS = ("replace", "rename", "link", "symlink")
_NO_PROCESS = 1 << 22  # Linux has no process with this number
_NATIVE = (("safetensors.torch", "serialize_file"), ("safetensors.numpy", "serialize_file"))


class Killed(BaseException):
    """The process was killed at a file operation."""


class FileOperations:
    """Counts operations on files below a root, and is killed at one of them.

    Args:
        root: the folder.
        stop_at: number of the operation, from 0, in whose place the process is killed; None for none.

    Attributes:
        names: of the operations so far.
        killed: whether the process was killed.
    """

    def __init__(self, root: Path, stop_at: int | None = None) -> None:
        self.root = os.path.realpath(root)
        self.stop_at = stop_at
        self.names: list[str] = []
        self.killed = False
        self._open: list[tuple[int, tuple[int, int]]] = []
        self._truncate = os.truncate  # without a hook

    def before(self, name: str, *paths: Any) -> None:
        """Count an operation that is about to happen; raises `Killed` if the process is dead.

        Args:
            name: of the operation.
            paths: what it changes: paths or file descriptors.
        """
        places = [place for path in paths if (place := self._below(path)) is not None]
        if not places:
            return
        if not self.killed and len(self.names) == self.stop_at:
            self._die()
        if self.killed:
            raise Killed(f"{name} {' '.join(places)}")
        self.names.append(f"{name} {' '.join(places)}")

    def half_written(self, path: Any) -> None:
        """Count the moment at which half of a file is written.

        Args:
            path: of the file, which is complete.
        """
        if not os.path.exists(path) or os.path.getsize(path) == 0:
            return
        try:
            self.before("half written", path)
        except Killed:
            self._truncate(path, os.stat(path).st_size // 2)
            raise

    def opened(self, descriptor: int) -> None:
        """Remember a file that is open for writing.

        Args:
            descriptor: of the file.
        """
        status = os.fstat(descriptor)
        self._open.append((descriptor, (status.st_dev, status.st_ino)))

    def _die(self) -> None:
        """Send what open files still buffer to nowhere."""
        self.killed = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor, identity in self._open:
            with suppress(OSError):  # closed since
                status = os.fstat(descriptor)
                if (status.st_dev, status.st_ino) == identity:
                    os.dup2(nowhere, descriptor)
        os.close(nowhere)

    def _below(self, path: Any) -> str | None:
        """The path relative to the root; None if it is elsewhere."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
        place = os.path.join(os.path.realpath(folder), name)
        if not place.startswith(self.root + os.sep) or f"{os.sep}tensorboard{os.sep}" in f"{place}{os.sep}":
            return None
        return os.path.relpath(place, self.root)


def counted(root: Path, work: Callable[[], object]) -> list[str]:
    """Do some work undisturbed; returns the names of its file operations.

    Args:
        root: the folder.
        work: what to do.
    """
    operations = FileOperations(root)
    with _hooks(operations):
        work()
    return operations.names


def killed_at(root: Path, stop_at: int, work: Callable[[], object]) -> bool:
    """Do some work and be killed at a file operation; returns whether it came so far.

    Args:
        root: the folder.
        stop_at: number of the operation, from 0.
        work: what to do.
    """
    operations = FileOperations(root, stop_at)
    gc.freeze()  # what stands now need not be searched
    with _hooks(operations), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # files that the dead process left open
        with suppress(Killed):
            work()
        gc.collect()  # what collected objects would clean up, they clean up as dead ones
    gc.unfreeze()
    return operations.killed


@contextmanager
def _hooks(operations: FileOperations) -> Generator[None, None, None]:
    with pytest.MonkeyPatch.context() as patch:
        originals = {name: getattr(os, name) for name in (*_ONE_PATH, *_TWO_PATHS, "fsync", "open")}
        hooks = _system_hooks(operations, originals)
        hooks["io_open"] = _open_hook(operations, builtins.open)
        for name in originals:
            patch.setattr(os, name, hooks[name])
        patch.setattr(builtins, "open", hooks["io_open"])
        patch.setattr(io, "open", hooks["io_open"])
        accessor: Any = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10 keeps the functions here
        for name in (*_ONE_PATH, *_TWO_PATHS) if accessor else ():
            if hasattr(accessor, name):
                patch.setattr(accessor, name, staticmethod(hooks[name]))
        if accessor:
            patch.setattr(accessor, "open", staticmethod(hooks["io_open"]))
        _hook_native(operations, patch)
        patch.setattr(os, "getpid", lambda: _NO_PROCESS)  # the command is given again by another process
        yield


def _system_hooks(operations: FileOperations, originals: dict[str, Any]) -> dict[str, Any]:
    def one(name: str) -> Any:
        def hook(path: Any, *args: Any, dir_fd: int | None = None, **kwargs: Any) -> Any:
            where = path if dir_fd is None else os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
            operations.before(name, where)
            if dir_fd is not None:
                kwargs["dir_fd"] = dir_fd
            return originals[name](path, *args, **kwargs)

        return hook

    def two(name: str) -> Any:
        def hook(source: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
            operations.before(name, *((target,) if name == "symlink" else (source, target)))
            return originals[name](source, target, *args, **kwargs)

        return hook

    def open_(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        writes = bool(flags & _WRITES) and (not _UNNAMED or flags & _UNNAMED != _UNNAMED)
        if writes:
            operations.before("os.open", path)
        descriptor = originals["open"](path, flags, *args, **kwargs)
        if writes:
            operations.opened(descriptor)
        return descriptor

    def fsync(descriptor: int) -> None:
        operations.before("fsync", descriptor)
        originals["fsync"](descriptor)

    return {
        **{name: one(name) for name in _ONE_PATH},
        **{name: two(name) for name in _TWO_PATHS},
        "open": open_,
        "fsync": fsync,
    }


def _open_hook(operations: FileOperations, original: Any) -> Any:
    def hook(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        writes = not isinstance(file, int) and bool(set("wax+") & set(mode))
        if writes:
            operations.before(f"open {mode}", file)
        stream = original(file, mode, *args, **kwargs)
        if writes:
            operations.opened(stream.fileno())
        if writes and set("wx") & set(mode):
            stream.close = closing(file, stream)
        return stream

    def closing(file: Any, stream: Any) -> Callable[[], None]:
        close = stream.close

        def hooked() -> None:
            if not stream.closed and not operations.killed:
                stream.flush()
                operations.half_written(file)
            close()

        return hooked

    return hook


def _hook_native(operations: FileOperations, patch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    from experts.io import owned_folder

    def safetensors_hook(original: Any) -> Any:
        def hook(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
            operations.before("write safetensors", filename)
            result = original(tensors, filename, *args, **kwargs)
            operations.half_written(filename)
            return result

        return hook

    for module, name in _NATIVE:
        home = importlib.import_module(module)
        patch.setattr(home, name, safetensors_hook(getattr(home, name)))

    start, close = pq.ParquetWriter.__init__, pq.ParquetWriter.close

    def started(writer: Any, where: Any, *args: Any, **kwargs: Any) -> None:
        operations.before("start Parquet", where)
        writer.place = where
        start(writer, where, *args, **kwargs)

    def closed(writer: Any) -> None:
        if operations.killed:
            writer.is_open = False  # nothing more is written
        elif writer.is_open:
            close(writer)
            operations.half_written(writer.place)

    patch.setattr(pq.ParquetWriter, "__init__", started)
    patch.setattr(pq.ParquetWriter, "close", closed)
    _hook_sqlite(operations, patch)
    name = "_exchanged"
    exchanged = getattr(owned_folder, name)

    def exchange(first: Path, second: Path) -> bool:
        operations.before("exchange", first, second)
        return exchanged(first, second)

    patch.setattr(owned_folder, name, exchange)


def _hook_sqlite(operations: FileOperations, patch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.engine.default import DefaultDialect

    execute, commit = DefaultDialect.do_execute, DefaultDialect.do_commit

    def place_of(connection: Any) -> str:
        return connection.execute("PRAGMA database_list").fetchone()[2]

    def do_execute(dialect: Any, cursor: Any, statement: str, *rest: Any) -> None:
        kind = statement.split(maxsplit=1)[0]
        if kind in ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER"):
            operations.before(kind, place_of(cursor.connection))
        execute(dialect, cursor, statement, *rest)

    def do_commit(dialect: Any, connection: Any) -> None:
        if connection.in_transaction:
            operations.before("commit", place_of(connection))
        commit(dialect, connection)

    patch.setattr(DefaultDialect, "do_execute", do_execute)
    patch.setattr(DefaultDialect, "do_commit", do_commit)
