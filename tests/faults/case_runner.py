"""Run bad inputs in one warm process, and say what is wrong with the answer."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import train_router
from experts.llm.lite import lite

from .bad_case import BadCase

__all__ = ["Runner"]

_SECONDS = 20.0  # of a clock on the wall; a bad input is refused in milliseconds
_CPU_SECONDS = 5.0  # the first case that needs a large library imports it
_MORE_MEMORY = 3 << 30  # bytes that a case may allocate


class _OutOfTime(BaseException):
    """A case ran too long."""


class Runner:
    """Runs cases in a folder of good inputs.

    Args:
        folder: the working folder, with the good inputs; the cases of a defect restore it from a copy.
    """

    def __init__(self, folder: Path) -> None:
        lite()  # an import that a case's time stops in the middle leaves half a module
        self.folder = folder
        self._pristine = folder.parent / f"{folder.name}-pristine"
        shutil.copytree(folder, self._pristine, symlinks=True)
        self._before = _listing(folder)

    def defect(self, case: BadCase) -> str | None:
        """Run a case; returns what is wrong with the answer, or None.

        Args:
            case: the case.
        """
        bad = self.folder / "bad"
        bad.mkdir()
        case.prepare(bad)
        started, clock = time.process_time(), time.monotonic()
        status, out, err = _run(self.folder, case.words)
        seconds = time.process_time() - started
        if time.monotonic() - clock > _SECONDS and not isinstance(status, str):
            status = f"hangs: {time.monotonic() - clock:.0f} s; {err[-200:]!r}"
        shutil.rmtree(bad)
        found = self._problem(case, status, out, err, seconds)
        changed = self._changes()
        if changed and not (case.may_pass and status == 0):
            found = f"{found or 'error'}; files changed: {', '.join(changed[:4])}"
        return found

    def _problem(self, case: BadCase, status: object, out: str, err: str, seconds: float) -> str | None:
        lines = err.splitlines()
        if isinstance(status, str):
            return status
        if case.may_pass and status == 0:
            return None
        if status == 0:
            return f"accepted (exit status 0 after {seconds:.1f} s)"
        if status != 2:
            return f"exit status {status!r}; {err[:300]!r}"
        if len(lines) != 1 or not err.endswith("\n") or err.count("\n") != 1:
            return f"{len(lines)} lines of errors: {err[:400]!r}"
        if not err.startswith("error: "):
            return f"no error: {err[:300]!r}"
        if out:
            return f"prints before the error: {out[:200]!r}"
        if not err[:-1].isprintable():
            return f"control characters: {err[:300]!r}"
        if len(err) > 1500:
            return f"{len(err)} characters: {err[:200]!r}"
        if not any(_plain(name) in _plain(err) for name in case.names):
            return f"names none of {', '.join(map(repr, case.names))[:200]}: {err[:300]!r}"
        if seconds > _CPU_SECONDS:
            return f"{seconds:.1f} s of CPU; {err[:200]!r}"
        return None

    def _changes(self) -> list[str]:
        """Return the files that a case changed, made or removed, and restore the folder."""
        after = _listing(self.folder)
        names = sorted(name for name in {*self._before, *after} if self._before.get(name) != after.get(name))
        if names:
            shutil.rmtree(self.folder)
            shutil.copytree(self._pristine, self.folder, symlinks=True)
            self._before = _listing(self.folder)
        return names


def _run(folder: Path, words: Sequence[str]) -> tuple[object, str, str]:
    """Run a command; returns the exit status, or what went wrong, and what was printed."""
    out, err = io.StringIO(), io.StringIO()
    status: object
    try:
        with (
            contextlib.chdir(folder) if hasattr(contextlib, "chdir") else _in_folder(folder),
            _limited(folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = train_router.main(list(words))
    except _OutOfTime:
        status = f"accepted or hangs: not done after {_SECONDS:.0f} s; {err.getvalue()[-200:]!r}"
    except SystemExit as stop:
        status = stop.code
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        status = f"traceback: {type(error).__name__} at {where}: {str(error)[:300]!r}"
    return status, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _limited(folder: Path) -> Iterator[None]:
    """Stop what takes too long or too much memory in a working folder."""

    def stop(*_: object) -> None:
        raise _OutOfTime

    handler = signal.signal(signal.SIGALRM, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MORE_MEMORY, hard))
    # Again and again: an exception in a callback of C code is dropped.
    signal.setitimer(signal.ITIMER_REAL, _SECONDS, 0.5)
    # Native code that opens a FIFO waits for a writer, whatever the signal.
    writer = _writer_to(folder / "bad" / "fifo")
    try:
        yield
    finally:
        if writer is not None:
            writer.kill()
            writer.wait()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _writer_to(path: Path) -> subprocess.Popen[bytes] | None:
    """Start a process that opens a FIFO again and again, once a case has run too long; None without one.

    Its reader goes on. A thread cannot do this: native code can wait without giving up the interpreter.
    """
    if not path.exists():
        return None
    script = f"sleep {_SECONDS + 1}; while :; do exec 3<>fifo; sleep 0.2; exec 3>&-; sleep 0.2; done"
    return subprocess.Popen(["sh", "-c", script], cwd=path.parent)


def _listing(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return size, time and number of every file below a folder."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            about = os.lstat(path)
            changing = () if name in folders else (about.st_size, about.st_mtime_ns, about.st_ino)
            found[os.path.relpath(path, folder)] = (about.st_mode, *changing)
    return found


def _plain(text: str) -> str:
    return text.replace("-", "_").lower()
