"""A session of mutants: copies of a committed tree, the processes that test in them, and the results."""

from __future__ import annotations

import difflib
import io
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult
from mutation_sample import changes_what_runs, identifier, mutants_in, mutated
from mutation_tests import CoveringTests, failed_of

__all__ = ["Session", "Worker", "change_of", "copies_of", "git", "noticing", "place_of", "session_in"]

ROOT = Path(__file__).resolve().parents[1]
_ALLOWANCE = 30.0  # seconds that a run may take beyond the factor
_OUTPUT = 2_000  # characters kept of what the tests print
_OUTCOMES = {
    "survived": TestOutcome.SURVIVED,
    "killed": TestOutcome.KILLED,
    "timeout": TestOutcome.KILLED,
    "incompetent": TestOutcome.INCOMPETENT,
}


def copies_of(commit: str, out: Path, jobs: int) -> None:
    """Make copies of a committed tree below a folder: `pristine`, and one for each job."""
    archive = git("archive", commit)
    # A killed run leaves a mutant in its copy.
    for name in ("pristine", *(f"tree{job}" for job in range(jobs))):
        shutil.rmtree(out / name, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(out / name, filter="data")


def git(*arguments: str) -> bytes:
    """Return what git prints in the repository."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


@contextmanager
def session_in(
    out: Path, jobs: int, factor: float, kind: Callable[..., Session] | None = None
) -> Generator[Session]:
    """Open the session of a folder with its copies of the tree and its recorded tests.

    Args:
        out: folder of both.
        jobs: mutants at the same time.
        factor: time limit of a mutant, as a multiple of the unmutated run.
        kind: of session; `Session` if None.
    """
    workers = [Worker(out / f"tree{job}") for job in range(jobs)]
    tests = CoveringTests(out, out / "pristine")
    with use_db(str(out / "session.sqlite"), WorkDB.Mode.create) as results:
        yield (kind or Session)(results, tests, workers, factor)
    for worker in workers:
        worker.close()


class Worker:
    """A copy of the tree and a process that runs its tests.

    Args:
        tree: the copy.

    Raises:
        SystemExit: the process would import the packages of another tree.
    """

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self._log = tree.with_name(f"{tree.name}-tests.log")
        settings = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
        arguments: dict[str, Any] = {"cwd": tree, "env": {**os.environ, **settings}, "text": True}
        code = f"import router_rl; assert router_rl.__file__.startswith({str(tree)!r}), router_rl.__file__"
        if subprocess.run([sys.executable, "-c", code], check=False, **arguments).returncode:
            sys.exit(f"{tree} does not import its own router_rl")
        script = Path(__file__).with_name("mutation_worker.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([sys.executable, str(script)], **pipes, **arguments)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def run(self, module: str, tests: Sequence[str], limit: float) -> tuple[str, str]:
        """Return what `mutation_worker` says of a module and tests, and the end of what they print."""
        job = {"module": module, "tests": tests, "limit": limit, "log": str(self._log)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        word = self._process.stdout.readline().strip()
        return word, self._log.read_text(encoding="utf-8", errors="replace")[-_OUTPUT:]


class Session:
    """Runs mutants and keeps their results.

    Args:
        results: cosmic-ray's database.
        tests: of the mutants.
        workers: one for each mutant at the same time.
        factor: time limit of a mutant, as a multiple of the unmutated run.
    """

    def __init__(
        self, results: WorkDB, tests: CoveringTests, workers: Sequence[Worker], factor: float
    ) -> None:
        self._results, self._tests, self._factor = results, tests, factor
        self._pristine = workers[0].tree.with_name("pristine")
        self._free: queue.Queue[Worker] = queue.Queue()
        for worker in workers:
            self._free.put(worker)
        self._known = {item.job_id: result for item, result in results.completed_work_items}
        self._listed = {item.job_id for item in results.work_items}
        self._lock = Lock()
        self._second = itertools.count(1)
        self._passing: set[str] = set()

    def sample(self, room: str, sample: int, seed: int) -> list[tuple[MutationSpec, WorkResult]]:
        """Return the first viable mutants of a folder with their results; those that have none run first."""
        plausible = self._plausible(room, seed)
        viable: list[tuple[MutationSpec, WorkResult]] = []
        while batch := list(islice(plausible, sample - len(viable))):
            results = self.results(batch)
            viable += [one for one in results if one[1].test_outcome != TestOutcome.INCOMPETENT]
        return viable

    def results(self, mutants: Sequence[MutationSpec]) -> list[tuple[MutationSpec, WorkResult]]:
        """Return mutants with their results; those that have none run first."""
        with ThreadPoolExecutor(max(self._free.qsize(), 1)) as pool:
            return list(zip(mutants, pool.map(self._result, mutants), strict=True))

    def planted(self, mutant: MutationSpec) -> tuple[str, str]:
        """Return the source of a mutant's file, without and with it."""
        source = self._source(mutant)
        changed = mutated(source, mutant)
        assert changed is not None
        return source, changed

    def _plausible(self, room: str, seed: int) -> Iterator[MutationSpec]:
        """The mutants of a folder that compile and change what runs."""
        for mutant in mutants_in(self._pristine, room, seed):
            source = self._source(mutant)
            changed = mutated(source, mutant)
            if changed is not None and changes_what_runs(source, changed):
                yield mutant

    def _source(self, mutant: MutationSpec) -> str:
        return (self._pristine / mutant.module_path).read_text(encoding="utf-8")

    def _result(self, mutant: MutationSpec) -> WorkResult:
        job = identifier(mutant)
        if job in self._known:
            return self._known[job]
        worker = self._free.get()
        began = time.perf_counter()
        try:
            result = self._tested(mutant, worker)
        finally:
            self._free.put(worker)
        with self._lock:
            if job not in self._listed:
                self._results.add_work_item(WorkItem.single(job, mutant))
            self._results.set_result(job, result)
        print(
            f"  {place_of(mutant)}: {result.test_outcome.value}, {time.perf_counter() - began:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        return result

    def _tested(self, mutant: MutationSpec, worker: Worker) -> WorkResult:
        """Plant a mutant in a copy of the tree, run its tests and take it out again."""
        tests = self._tests.of(mutant)
        limit = _ALLOWANCE + self._factor * self._tests.seconds(tests)
        source, changed = self.planted(mutant)
        path = worker.tree / mutant.module_path
        module = ".".join(mutant.module_path.with_suffix("").parts)
        try:
            self._write(path, changed)
            word, output = worker.run(module, tests, limit)
        finally:
            self._write(path, source)
        if word == "killed":
            self._confirm(worker, module, noticing(tests, output), limit)
        return WorkResult(
            worker_outcome=WorkerOutcome.NORMAL,
            output="timeout" if word == "timeout" else output,
            test_outcome=_OUTCOMES[word],
            diff="\n".join(difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)),
        )

    def _confirm(self, worker: Worker, module: str, tests: Sequence[str], limit: float) -> None:
        """Check that the tests that failed pass without a mutant, each once in a session.

        Raises:
            RuntimeError: they do not.
        """
        if self._passing.issuperset(tests):
            return
        word, output = worker.run(module, tests, limit)
        if word != "survived":
            raise RuntimeError(f"{tests} do not pass without a mutant ({word}):\n{output}")
        self._passing.update(tests)

    def _write(self, path: Path, text: str) -> None:
        """Write a source file with a time of its own: compiled files are compared by seconds and size."""
        path.write_text(text, encoding="utf-8")
        with self._lock:
            second = next(self._second)
        os.utime(path, (second, second))


def noticing(tests: Sequence[str], output: str) -> Sequence[str]:
    """Return the tests that failed by what pytest printed; all of them if it names none.

    Args:
        tests: node ids.
        output: the end of what pytest printed.
    """
    return failed_of(tests, output.splitlines()) or tests


def place_of(mutant: MutationSpec) -> str:
    """Return the file and line of a mutant."""
    return f"{mutant.module_path.as_posix()}:{mutant.start_pos[0]}"


def change_of(result: WorkResult) -> tuple[str, str]:
    """Return the lines that a mutant replaces, and those that it puts there."""
    lines = (result.diff or "").splitlines()[2:]
    before, after = ("\n".join(line[1:] for line in lines if line.startswith(sign)) for sign in ("-", "+"))
    return before, after
