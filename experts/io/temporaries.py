"""Temporary files and folders: their names hold the process, so that those of killed ones can be removed.

A temporary of `table.parquet` is `.table.parquet.MACHINE-PROCESS-THREAD.tmp` in the same folder, so that it
can be renamed to its target.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["remove", "remove_stale", "stale", "temporary_beside"]

_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"


def temporary_beside(target: Path, suffix: str) -> Path:
    """Return the path of this thread's temporary for a target; whatever it left there before is removed.

    Args:
        target: the file or folder that the temporary will replace.
        suffix: what it is for: `tmp` for a file, `new` and `old` for folders.
    """
    temporary = target.with_name(f".{target.name}.{_MACHINE}-{os.getpid()}-{threading.get_ident()}.{suffix}")
    remove(temporary)
    return temporary


def stale(target: Path, suffix: str = r"\w+") -> Iterator[Path]:
    """Yield the temporaries of a target that processes of this machine left when they were killed.

    Args:
        target: the file or folder.
        suffix: a regular expression of the suffixes.
    """
    name = re.compile(rf"\.{re.escape(target.name)}\.{_MACHINE}-(\d+)-(\d+)\.{suffix}")
    for path in target.parent.iterdir():
        match = name.fullmatch(path.name)
        if match is not None and not _is_running(int(match[1]), int(match[2])):
            yield path


def remove_stale(target: Path) -> None:
    """Remove the temporaries of a target that killed processes left."""
    for path in list(stale(target)):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder of this toolkit's own, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_running(process: int, thread: int) -> bool:
    if process == os.getpid():
        return thread != threading.get_ident() and any(each.ident == thread for each in threading.enumerate())
    if os.name == "nt":  # os.kill would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
