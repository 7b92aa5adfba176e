"""An append-only journal of JSON lines that survives a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from filelock import FileLock, Timeout

from ..io.atomic import sync_folder
from ..io.errors import InputError

__all__ = ["Journal"]

_MOST_DOLLARS = 1e12  # of a line

_START = b'{"key": "'  # of every line; an incomplete last line that starts otherwise is not ours, and is kept


class Journal:
    """Records by key on disk, and the reasons for missing ones.

    A line is on disk (fsync) when `append` or `fail` returns. An incomplete last line, left by a kill, is
    removed when the file is opened. A lock file beside it, `<path>.lock`, admits one process at a time.

    Args:
        path: the file; it is created if it does not exist.
        check: raises ValueError for a record that cannot be used; None: every object is a record.

    Attributes:
        failed: the reason for each key without a record.
        usd: US dollars of all lines, and of attempts that a kill interrupted, at what was reserved.
        uncounted: keys of records whose line does not say what they cost.

    Raises:
        InputError: another process has it open, it cannot be written, or a line is not a record.
    """

    def __init__(self, path: Path | str, *, check: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.path = Path(path)
        self._check = check
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
        self.usd = 0.0
        self.uncounted: set[str] = set()
        self._reserved: dict[str, float] = {}  # of attempts that a kill interrupted
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

    def append(self, key: str, record: dict[str, Any], usd: float | None = None) -> None:
        """Write a record; the last one of a key counts.

        Args:
            key: of the record.
            record: what JSON can hold.
            usd: US dollars of all attempts; None: not known.
        """
        line = {"key": key, "record": record, **self._cost(key, usd)}
        self._note(key, self._write(line), None)

    def fail(self, key: str, reason: str, about: dict[str, Any], usd: float | None = None) -> None:
        """Write the reason why a key has no record.

        Args:
            key: of the missing record.
            reason: one sentence.
            about: what the record would be of.
            usd: US dollars of all attempts; None: not known.
        """
        line = {"key": key, "failed": reason, **about, **self._cost(key, usd)}
        self._note(key, self._write(line), reason)

    def reserve(self, key: str, usd: float) -> None:
        """Write what an attempt can cost, before it is sent: it counts if no other line of the key follows.

        Args:
            key: of the record to come.
            usd: US dollars.
        """
        self._write({"key": key, "reserved": usd})

    def close(self) -> None:
        """Close the file and release the lock."""
        self._file.close()
        self._lock.release()

    def _unwritable(self, error: OSError) -> InputError:
        problem = f"cannot be written ({error.strerror})"
        return InputError("journal", str(self.path), problem, "choose a folder you can write to")

    def _cost(self, key: str, usd: float | None) -> dict[str, float]:
        """Count the cost of a line, and return its field, with what a kill left reserved for the key."""
        if usd is None:
            return {}
        self.usd += usd  # what is reserved is counted already
        return {"usd": usd + self._reserved.pop(key, 0.0)}

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
                left = line.rstrip(b"\0")  # a power cut can leave zeros
                if left[: len(_START)] != _START[: len(left)]:
                    self.close()
                    problem = f"line {number} is not a record, and it is not complete"
                    raise InputError(
                        "journal", str(self.path), problem, "remove that line, or name another file"
                    )
                self._file.truncate(at)
                break
            try:
                self._index(json.loads(line), at)
            except (ValueError, RecursionError) as error:
                self.close()
                problem = f"line {number} is not a record ({error or type(error).__name__})"
                raise InputError(
                    "journal", str(self.path), problem, "remove that line, or the file"
                ) from error
            at += len(line)
        self.usd += sum(self._reserved.values())

    def _index(self, entry: Any, at: int) -> None:
        """Note one line; raises ValueError if it is not of this journal's form."""
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
            raise ValueError("it is not an object with a key")
        line, key = cast("dict[str, Any]", entry), entry["key"]
        if "reserved" in line:
            self._reserved[key] = self._reserved.get(key, 0.0) + _dollars("reserved", line["reserved"])
            return
        record, reason = line.get("record"), None if "record" in line else line.get("failed")
        if not isinstance(record, dict) and not isinstance(reason, str):
            raise ValueError("it has neither an object `record` nor a text `failed`")
        if reason is None and self._check is not None:
            self._check(cast("dict[str, Any]", record))
        if "usd" in line:
            self.usd += _dollars("usd", line["usd"])
            self._reserved.pop(key, None)
            self.uncounted.discard(key)
        elif reason is None:
            self.uncounted.add(key)
        self._note(key, at, reason)


def _dollars(name: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0.0 <= value <= _MOST_DOLLARS:
        raise ValueError(f"{name} is {value!r}, not US dollars")
    return float(value)
