"""The tests of a mutant: the quick tests that run its line, the nearest ones first.

One run of the quick tests records which test runs which line (coverage.py's contexts) and how long each
test takes. A line that runs only while its module is imported (a constant, a default, a decorator) is tested
by `tests/test_defaults.py`, which compares the values that imports define, and by the tests that run any
function of that module.

The file that mirrors the source file (`tests/A/B/test_C.py` of `A/B/C.py`) comes first, then files by the
steps between their folder and the mirror's; within one distance, shorter tests come first. Tests are taken
until their seconds without a mutant exceed `SECONDS`.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from cosmic_ray.work_item import MutationSpec
from coverage import CoverageData

__all__ = ["SECONDS", "CoveringTests", "distance", "failed_of", "record"]

SECONDS = 20.0
"""Seconds of tests of one mutant, without the mutant, after which no other test is taken."""

_DEFAULTS = "tests/test_defaults.py::"
_MOST = 200  # tests of one mutant
_DURATION = re.compile(r"^([\d.]+)s (?:setup|call|teardown) +(\S.*)$", re.MULTILINE)
_COVERAGE, _DURATIONS, _FAILED = "coverage.sqlite", "durations.txt", "failed.txt"


class CoveringTests:
    """Finds the tests of a mutant in what `record` wrote.

    Args:
        out: folder that `record` wrote to.
        tree: root of the recorded repository.
        seconds: of tests for one mutant.
    """

    def __init__(self, out: Path, tree: Path, seconds: float = SECONDS) -> None:
        self._tree, self._limit = tree, seconds
        self._data = CoverageData(str(out / _COVERAGE))
        self._data.read()
        self._seconds: dict[str, float] = defaultdict(float)
        for took, test in _DURATION.findall((out / _DURATIONS).read_text(encoding="utf-8")):
            self._seconds[test] += float(took)
        failed = out / _FAILED
        self._failed = failed.read_text(encoding="utf-8").splitlines() if failed.exists() else []
        self._lines = cache(self._read_lines)

    def of(self, mutant: MutationSpec) -> list[str]:
        """Return node ids for pytest, nearest first; [] if no test runs the mutant's line."""
        name = mutant.module_path.as_posix()
        contexts = self._lines(name)
        lines = _lines_of((self._tree / name).read_text(encoding="utf-8"), mutant)
        running = {test for line in lines or contexts for test in contexts.get(line, ())} - {""}
        first = [] if lines else [test for test in self._seconds if test.startswith(_DEFAULTS)]
        tests = [*first, *self._nearest(running.difference(first), mutant.module_path)]
        failed = failed_of(tests, self._failed)
        return [test for test in tests if test not in failed]

    def seconds(self, tests: Iterable[str]) -> float:
        """Return the seconds that tests take without a mutant."""
        return sum(self._seconds[test] for test in tests)

    def _nearest(self, tests: Iterable[str], source: Path) -> list[str]:
        order = sorted(tests, key=lambda test: (distance(test, source), self._seconds[test], test))
        kept: list[str] = []
        for test in order[:_MOST]:
            kept.append(test)
            if self.seconds(kept) > self._limit:
                break
        return kept

    def _read_lines(self, name: str) -> Mapping[int, set[str]]:
        """Tests by line of a source file; "" stands for its import."""
        found = self._data.contexts_by_lineno(str(self._tree / name))
        return {line: {each.rpartition("|")[0] for each in contexts} for line, contexts in found.items()}


def record(out: Path, tree: Path, workers: int, tests: Sequence[str] = ()) -> None:
    """Run tests of a tree, and keep which test runs which line and how long each takes.

    Args:
        out: folder for what is kept; if it has it, nothing runs.
        tree: root of the repository.
        workers: processes.
        tests: files and node ids, of which those that fail are left out; the quick tests if empty.

    Raises:
        SystemExit: a quick test fails.
    """
    if (out / _DURATIONS).exists():
        return
    options = f"-n {workers} --dist worksteal -p no:cacheprovider"
    measure = "--cov --cov-report= --cov-context=test --durations=0 -vv"
    command = [sys.executable, "-m", "pytest", *shlex.split(f"{options} {measure}")]
    command += tests or ["--ignore=tests/faults", "-m", "not slow"]
    environment = f"COVERAGE_FILE={out / _COVERAGE}", f"PYTHONPATH={tree}"
    log = out / "tests.log"
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(["env", "-C", str(tree), *environment, *command], stdout=output, check=False)
    if done.returncode and not tests:
        sys.exit(f"the tests fail without a mutant: see {log}")
    lines = log.read_text(encoding="utf-8").splitlines()
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    for line in failed:
        print(f"left out, because it fails without a mutant: {line}", file=sys.stderr)
    (out / _FAILED).write_text("\n".join(failed), encoding="utf-8")
    durations = [line for line in lines if _DURATION.match(line)]
    (out / _DURATIONS).write_text("\n".join(durations), encoding="utf-8")


def failed_of(tests: Sequence[str], lines: Iterable[str]) -> list[str]:
    """Return the tests that the lines of pytest's summary name as failed.

    Args:
        tests: node ids.
        lines: that pytest printed.

    >>> failed_of(["a.py::test_x", "a.py::test_x_y"], ["FAILED a.py::test_x_y - assert 1 == 2"])
    ['a.py::test_x_y']
    """
    named = [line.partition(" ")[2] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return [test for test in tests if any(line == test or line.startswith(f"{test} - ") for line in named)]


def distance(test: str, source: Path) -> int:
    """Return 0 for the doctests and the mirror of a source file, else 1 and the steps between the folders.

    >>> distance("tests/a/b/test_c.py::test_x", Path("a/b/c.py"))
    0
    >>> distance("tests/a/test_d.py::test_x", Path("a/b/c.py"))
    2
    """
    path = Path(test.partition("::")[0])
    mirror = Path("tests") / source.parent / f"test_{source.name}"
    if path in (mirror, source):
        return 0
    ours, theirs = mirror.parent.parts, path.parent.parts
    shared = 0
    while shared < min(len(ours), len(theirs)) and ours[shared] == theirs[shared]:
        shared += 1
    return 1 + len(ours) + len(theirs) - 2 * shared


def _lines_of(source: str, mutant: MutationSpec) -> Sequence[int]:
    """Lines of the statement that a mutant changes, of a loop those of its head; [] if an import runs it."""
    place = mutant.start_pos[0]
    found: Sequence[int] = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in (each for part in function.body for each in ast.walk(part)):
            if isinstance(node, ast.stmt):  # the innermost comes last
                body = getattr(node, "body", None)
                end = body[0].lineno - 1 if isinstance(body, list) and body else node.end_lineno
                lines = range(node.lineno, max(end or 0, node.lineno) + 1)
                found = lines if place in lines else found
    return found
