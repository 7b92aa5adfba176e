"""Folders that this toolkit wrote: they are replaced whole or not at all; no other folder is replaced.

A written folder holds a marker file with the size and the SHA-256 of every other file. A folder is replaced
only if its marker agrees with its files, so a file that a user added or changed is never lost.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from .atomic import sync_file, sync_folder, writable_folder, write_json
from .errors import InputError
from .temporaries import remove, remove_stale, stale, temporary_beside

__all__ = [
    "MARKER",
    "check_claimable",
    "check_replaceable",
    "claim_folder",
    "mark",
    "owner_of",
    "replacing_folder",
]

MARKER = ".router_rl.json"
_SCHEMA_VERSION = 1
_FIX = "choose another folder, or move these files away"


@contextmanager
def replacing_folder(target: Path | str, field: str = "out") -> Generator[Path, None, None]:
    """Yield a new folder beside the target; on success it is marked, flushed and swapped with the target.

    On an exception the new folder is removed and the target does not change. Where the system cannot swap two
    folders in one step, the old one is renamed first; if the process is killed between the two steps, the
    next call restores it.

    Args:
        target: the folder to write; its parent is created.
        field: name of the option, for errors.

    Raises:
        InputError: the target is not a folder that this toolkit wrote, or cannot be written.
    """
    target = Path(os.path.abspath(target))
    parent = writable_folder(field, target.parent)
    _restore(target)
    check_replaceable(target, field)
    remove_stale(target)
    fresh = temporary_beside(target, "new")
    fresh.mkdir()
    try:
        yield fresh
        mark(fresh)
        for path in sorted(fresh.rglob("*")):
            if path.is_dir():
                sync_folder(path)
            elif not path.is_symlink():
                sync_file(path)
        sync_folder(fresh)
        _swap(fresh, target)
        sync_folder(parent)
    finally:
        remove(fresh)


def check_replaceable(target: Path, field: str = "out") -> None:
    """Check that a path is free, an empty folder, or a folder that this toolkit wrote and nobody changed.

    Args:
        target: the path.
        field: name of the option, for errors.

    Raises:
        InputError: it is not; names the first files that this toolkit did not write, or that were changed.
    """
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise InputError(field, str(target), "exists and is not a folder", "choose another folder")
    files = _files(target)
    if not files and not (target / MARKER).exists():
        return
    written = _marker(target).get("files")
    if not isinstance(written, dict):
        raise InputError(
            field, str(target), f"holds files that this toolkit did not write ({_some(files)})", _FIX
        )
    added = [name for name in files if name not in written]
    if added:
        raise InputError(
            field, str(target), f"holds files that this toolkit did not write ({_some(added)})", _FIX
        )
    changed = [name for name in files if written[name] != _facts(target / name)]
    if changed:
        raise InputError(field, str(target), f"holds files that were changed since ({_some(changed)})", _FIX)


def claim_folder(folder: Path | str, kind: str, names: Collection[str], field: str = "out") -> Path:
    """Create a folder that a command fills over time, and mark it as the command's own.

    Other files in the folder are left alone.

    Args:
        folder: the folder.
        kind: what the command writes, such as `run`.
        names: names in the folder that the command replaces.
        field: name of the option, for errors.

    Returns:
        the folder.

    Raises:
        InputError: one of the names exists and is not the command's own, or the folder cannot be written.
    """
    folder = writable_folder(field, folder)
    check_claimable(folder, kind, names, field)
    if owner_of(folder) != kind:
        write_json(folder / MARKER, {"schema_version": _SCHEMA_VERSION, "kind": kind})
    return folder


def check_claimable(folder: Path, kind: str, names: Collection[str], field: str = "out") -> None:
    """Check that a command can fill a folder, as `claim_folder` does; nothing is written.

    Args:
        folder: the folder, which need not exist.
        kind: what the command writes, such as `run`.
        names: names in the folder that the command replaces.
        field: name of the option, for errors.

    Raises:
        InputError: one of the names exists and is not the command's own.
    """
    owner = owner_of(folder)
    if owner == kind:
        return
    if owner is not None:
        raise InputError(field, str(folder), f"is the folder of a {owner}", "choose another folder")
    taken = sorted(name for name in names if (folder / name).exists())
    if taken:
        problem = f"holds files that this toolkit did not write ({_some(taken)})"
        raise InputError(field, str(folder), problem, _FIX)


def owner_of(folder: Path) -> str | None:
    """Return what the command that claimed a folder writes, such as `run`; None if no command did.

    Args:
        folder: any folder.
    """
    kind = _marker(folder).get("kind")
    return kind if isinstance(kind, str) else None


def mark(folder: Path) -> None:
    """Write the marker of a folder, with the size and digest of each of its files."""
    files = {name: _facts(folder / name) for name in _files(folder)}
    write_json(folder / MARKER, {"schema_version": _SCHEMA_VERSION, "files": files})


def _marker(folder: Path) -> dict[str, Any]:
    """Return the content of a marker; empty if there is none or it cannot be read."""
    try:
        content: Any = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _files(folder: Path) -> list[str]:
    """Return the relative paths of all files but the marker and what Python caches beside modules."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(folder).as_posix() for path in paths)
    return [name for name in names if name != MARKER and "__pycache__/" not in f"/{name}"]


def _facts(path: Path) -> list[Any]:
    if path.is_symlink():
        return ["link", os.readlink(path)]
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return [path.stat().st_size, digest.hexdigest()]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _restore(target: Path) -> None:
    """Rename a folder back that a killed process had renamed away and not yet replaced."""
    if not target.exists():
        for path in stale(target, "old"):
            path.rename(target)
            return


def _swap(fresh: Path, target: Path) -> None:
    """Put the new folder in the target's place, and the old one, if any, in the new one's."""
    if not target.exists():
        fresh.rename(target)
    elif not _exchanged(fresh, target):
        old = temporary_beside(target, "old")
        target.rename(old)
        fresh.rename(target)
        remove(old)


def _exchanged(first: Path, second: Path) -> bool:
    """Exchange two paths in one step; returns False where the system cannot.

    Source:
        renameat2(2) of Linux, RENAME_EXCHANGE.
    """
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0
