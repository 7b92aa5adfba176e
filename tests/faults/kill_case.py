"""A writing command that is killed at its file operations, and given again: the result must be the same."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import train_router

from .kill_points import counted, killed_at

__all__ = ["KillCase", "defects", "files_of", "train"]

Files = dict[str, Any]
"""Content by path."""

_NO = object()  # the content of a file that is not there

Check = Callable[[Path], "str | None"]
"""Says what is wrong in a working folder; None if nothing is."""


def nothing(folder: Path) -> str | None:
    """Find nothing wrong."""


@dataclass(frozen=True, kw_only=True)
class KillCase:
    """A command that writes, and what must be true after a kill.

    Attributes:
        words: the command line; its paths are relative to the working folder.
        after_kill: checks the working folder after a kill, before the command is given again.
        after_rerun: checks the working folder after the command was given again; may change it.
        volatile: what differs from run to run, such as times: fields of JSON files, beginnings of columns.
        ignored: ends of names of files whose content differs from run to run, or grows.
        between: files that may have other content, or be missing, between the old state and the new one.
        points: how many file operations to kill at; None for all.
    """

    words: tuple[str, ...]
    after_kill: Check = nothing
    after_rerun: Check = nothing
    volatile: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    points: int | None = None


def defects(case: KillCase, inputs: Path, folder: Path) -> tuple[int, list[str]]:
    """Kill a command at its file operations; returns how often, and what was wrong.

    Args:
        case: the command.
        inputs: a folder with its inputs, which is copied for every kill.
        folder: the working folder. The system's folder of temporary files is elsewhere and not looked at.
    """

    def fresh() -> None:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(inputs, folder, dirs_exist_ok=True)

    with _working_in(folder):
        fresh()
        operations = counted(folder, lambda: _succeed(case.words))
        before, expected = files_of(inputs, case), files_of(folder, case)
        wrong: list[str] = []
        points = _spread(len(operations), case.points)
        for point in points:
            fresh()
            assert killed_at(folder, point, lambda: train(case.words)), operations[point]
            where = f"killed before {point}, {operations[point]}"
            wrong += _named(where, _torn(case, before, files_of(folder, case), expected))
            wrong += _named(where, case.after_kill(folder))
            wrong += _named(where, _rerun(case, folder, expected))
        fresh()
        _succeed(case.words)
        wrong += _named("given twice", _rerun(case, folder, expected))
    return len(points), wrong


def files_of(folder: Path, case: KillCase) -> Files:
    """Return the content of all files below a folder, apart from times and TensorBoard; None for a folder.

    Args:
        folder: the folder.
        case: says what differs from run to run.
    """
    content: Files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if "tensorboard" in path.parts:
            continue
        if path.is_dir():
            content[name] = None
        elif name.endswith(case.ignored) and case.ignored:
            content[name] = "ignored"
        else:
            content[name] = _content(path, case.volatile)
    return content


def _content(path: Path, volatile: frozenset[str]) -> Any:
    """The content without what differs from run to run; the bytes of a file that is torn."""
    if path.suffix == ".db":
        return _rows(path, volatile)
    try:
        if volatile and path.suffix == ".json":
            return _without(json.loads(path.read_text(encoding="utf-8")), volatile)
        if volatile and path.suffix == ".parquet":
            table = pq.read_table(path)
            kept = [each for each in table.column_names if not each.startswith(tuple(volatile))]
            return table.schema.metadata, table.select(kept).to_pydict()
    except ValueError:  # of JSON and of Arrow
        pass
    return path.read_bytes()


def _rows(path: Path, volatile: frozenset[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table of a SQLite database, without what differs from run to run."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        names = [
            row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            name: [_without(dict(row), volatile) for row in connection.execute(f"SELECT * FROM {name}")]
            for name in names
        }


def train(words: Sequence[str]) -> tuple[int, str]:
    """Run a command line; returns its exit status and what it printed on stderr."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        status = train_router.main([*words, "--json"])
    return status, errors.getvalue()


def _succeed(words: Sequence[str]) -> None:
    status, errors = train(words)
    assert status == 0, errors


def _rerun(case: KillCase, folder: Path, expected: Files) -> str | None:
    status, errors = train(case.words)
    if status != 0:
        return f"exit status {status}: {errors.strip()}"
    after = files_of(folder, case)
    if after != expected:
        names = sorted(name for name in {*after, *expected} if after.get(name, 0) != expected.get(name, 0))
        return f"files differ from the undisturbed run: {', '.join(names)}"
    return case.after_rerun(folder)


def _torn(case: KillCase, before: Files, after: Files, expected: Files) -> str | None:
    """Say which files are neither the old ones nor the new ones after a kill; others are temporary."""
    names = [name for name in {**before, **expected} if not name.startswith(case.between or "\0")]
    torn = [
        name
        for name in names
        if name in after and after[name] not in (before.get(name, _NO), expected.get(name, _NO))
    ]
    lost = [name for name in names if name in before and name in expected and name not in after]
    return f"neither old nor new: {', '.join(torn + lost)}" if torn or lost else None


def _named(where: str, problem: str | None) -> list[str]:
    return [] if problem is None else [f"{where}: {problem}"]


def _spread(count: int, points: int | None) -> list[int]:
    """Which operations to kill at: all, or some that are evenly spread, with the first and the last."""
    if points is None or points >= count:
        return list(range(count))
    return sorted({round(index * (count - 1) / (points - 1)) for index in range(points)})


def _without(value: Any, volatile: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(each, volatile) for key, each in value.items() if key not in volatile}
    return [_without(each, volatile) for each in value] if isinstance(value, list) else value


@contextlib.contextmanager
def _working_in(folder: Path) -> Generator[None, None, None]:
    with pytest.MonkeyPatch.context() as patch:
        folder.mkdir(parents=True, exist_ok=True)
        before = Path.cwd()
        temporary = folder.with_name(f"{folder.name}-tmp")
        temporary.mkdir(exist_ok=True)
        patch.setattr(tempfile, "tempdir", str(temporary))
        patch.setattr(os, "fsync", lambda _: None)  # no power cut is tested, and it is slow
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
