"""The commands that write, apart from `patch`, with inputs, for kills at their file operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .good_inputs import LINES
from .kill_case import KillCase, train

__all__ = ["CASES", "READERS", "Setup"]

Setup = Callable[[Path], None]
"""Adds to the inputs of a case, inside their folder."""

_TIMES = frozenset({"seconds", "fit_seconds", "fit_seconds_mean", "created", "checksum", "commit", "at"})
_REPORT = ("report.html",)  # has times
_COMPARE = (
    *("compare", "--env", "caching", "--table", "table.parquet", "--methods", "lru", "--seeds", "1"),
    *("--n-trials", "1", "--problem.episodes", "2", "--problem.window", "8"),
    *("--problem.resident-shares", "[1.0]", "--out", "out"),
)
_LOG = ("--log", "sqlite:///decisions.db")


def _nothing(folder: Path) -> None:
    """Add nothing."""


def _older(*words: str) -> Setup:
    """Write the output of another command line to `out` before."""

    def setup(folder: Path) -> None:
        status, errors = train(words)
        assert status == 0, errors

    return setup


def _timed(*words: str, points: int | None = None) -> KillCase:
    return KillCase(words=words, volatile=_TIMES, ignored=_REPORT, points=points)


def _case(name: str, points: int | None = None) -> KillCase:
    return _timed(*LINES[name], points=points)


CASES: dict[str, tuple[KillCase, Setup]] = {
    "import": (_case("import"), _nothing),
    "import again": (_case("import"), _older("import", "results.jsonl", "--out", "out.parquet")),
    "import prices": (_timed("import", "results.csv", "--print-prices", "--out", "out.yaml"), _nothing),
    "train": (_case("train", 12), _nothing),
    "train caching": (_case("train caching", 3), _nothing),
    "tune": (
        # An interrupted trial stays in the database.
        KillCase(
            words=LINES["tune"],
            volatile=_TIMES | {"reused", "worker"},
            ignored=(".db", ".db-journal"),
            points=8,
        ),
        _nothing,
    ),
    "compare": (_timed(*_COMPARE, points=4), _nothing),
    "export": (_case("export", 24), _nothing),
    "export again": (_case("export", 12), _older("export", "run", "--out", "out")),
    "patch gguf": (_case("patch gguf"), _nothing),
    "assemble": (_case("assemble", 14), _nothing),
    "assemble again": (_case("assemble", 14), _older(*LINES["assemble"], "--form", "deepseek")),
    "promote": (_case("promote"), _nothing),
    "promote a fraction": (_timed("promote", "served", *_LOG, "--fraction", "0.1"), _nothing),
    "rollback": (_case("rollback"), _nothing),
    "log": (_case("log"), _nothing),
    "log again": (_case("log"), _older(*LINES["log"], "--since", "20")),
}
"""The commands, with what stands in the folder before."""

READERS = ("evaluate", "evaluate log", "monitor", "profile", "list")
"""Lines of commands that write nothing."""
