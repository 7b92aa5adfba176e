"""An append-only journal of JSON lines that survives a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from ..io.atomic import sync_folder
from ..io.errors import InputError

__all__ = ["Journal"]


class Journal:
    """Records by key on disk, and the reasons for missing ones.

    A line is on disk (fsync) when `append` or `fail` returns. An incomplete last line, left by a kill, is
    removed when the file is opened. A lock file beside it, `<path>.lock`, admits one process at a time.

    Args:
        path: the file; it is created if it does not exist.

    Attributes:
        failed: the reason for each key without a record.

    Raises:
        InputError: another process has it open, it cannot be written, or a line is not a record.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self._file: BinaryIO = open(self.path, "a+b")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise self._unwritable(error) from error
        # A file of its own, because opening a lock file truncates it. Any thread may close the journal.
        self._lock = FileLock(f"{self.path}.lock", thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            self._file.close()
            problem = "another process is writing to it"
            raise InputError("journal", str(path), problem, "wait for it, or write elsewhere") from error
        except OSError as error:
            self._file.close()
            raise self._unwritable(error) from error
        self.failed: dict[str, str] = {}
        self._at: dict[str, int] = {}  # offset of each key's record: records stay on disk
        sync_folder(self.path.parent)
        self._recover()

    def __contains__(self, key: str) -> bool:
        return key in self._at

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, key: str) -> dict[str, Any]:
        """Return a key's record.

        Args:
            key: of the record.

        Raises:
            KeyError: the key has no record.
        """
        self._file.seek(self._at[key])
        return json.loads(self._file.readline())["record"]

    def append(self, key: str, record: dict[str, Any]) -> None:
        """Write a record; the last one of a key counts.

        Args:
            key: of the record.
            record: what JSON can hold.
        """
        self._note(key, self._write({"key": key, "record": record}), None)

    def fail(self, key: str, reason: str, about: dict[str, Any]) -> None:
        """Write the reason why a key has no record.

        Args:
            key: of the missing record.
            reason: one sentence.
            about: what the record would be of.
        """
        self._note(key, self._write({"key": key, "failed": reason, **about}), reason)

    def close(self) -> None:
        """Close the file and release the lock."""
        self._file.close()
        self._lock.release()

    def _unwritable(self, error: OSError) -> InputError:
        problem = f"cannot be written ({error.strerror})"
        return InputError("journal", str(self.path), problem, "choose a folder you can write to")

    def _write(self, line: dict[str, Any]) -> int:
        content = json.dumps(line, allow_nan=False).encode() + b"\n"
        at = self._file.seek(0, os.SEEK_END)
        self._file.write(content)
        self._file.flush()
        os.fsync(self._file.fileno())
        return at

    def _note(self, key: str, at: int, reason: str | None) -> None:
        if reason is None:
            self._at[key] = at
            self.failed.pop(key, None)
        elif key not in self._at:
            self.failed[key] = reason

    def _recover(self) -> None:
        """Index the records, and remove an incomplete last line."""
        self._file.seek(0)
        at = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                self._file.truncate(at)
                return
            try:
                entry = json.loads(line)
                reason = None if "record" in entry else entry["failed"]
                self._note(entry["key"], at, reason)
            except (ValueError, KeyError, TypeError) as error:
                self.close()
                problem = f"line {number} is not a record ({error!r})"
                raise InputError(
                    "journal", str(self.path), problem, "remove that line, or the file"
                ) from error
            at += len(line)
