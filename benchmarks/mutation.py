"""How many planted bugs the nearest tests notice: a seeded sample of mutants in each of four folders.

    python benchmarks/mutation.py --jobs 2
    python benchmarks/mutation.py --sample 10

cosmic-ray makes the mutants: another operator, comparison, number or constant, a negated condition, a loop
that does not run. `mutation_sample.py` says which count as viable, `mutation_tests.py` which tests are
nearest, and `mutation_worker.py` runs them. A mutant is killed if one of these tests fails or if they take
longer than `--timeout-factor` times the unmutated run.

Everything runs in copies of the committed tree below `--out`, so that the working tree does not change. A
session begins with one run of the quick tests. It is in `session.sqlite`, in cosmic-ray's format: an
interrupted run continues with the same command, and a larger `--sample` or another `--rooms` extends the
same session. Another commit or seed needs another `--out`. With `--again true` the survivors then run a
second time, with slow tests and those that were written since (`mutation_again.py`). Prints the score of
each folder with its 95% confidence interval (Wilson), and the survivors.
"""

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
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import jsonargparse
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult
from mutation_sample import changes_what_runs, identifier, mutants_in, mutated
from mutation_tests import CoveringTests, failed_of, record
from scipy.stats import binomtest

__all__ = [
    "Score",
    "Session",
    "Verdict",
    "Worker",
    "change_of",
    "copies_of",
    "git",
    "main",
    "noticing",
    "report",
    "session_in",
]

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("router_rl/studies", "router_rl/problems", "router_rl/methods", "router_rl/routing/selection")
_ALLOWANCE = 30.0  # seconds that a run may take beyond the factor
_OUTPUT = 2_000  # characters kept of what the tests print
_OUTCOMES = {
    "survived": TestOutcome.SURVIVED,
    "killed": TestOutcome.KILLED,
    "timeout": TestOutcome.KILLED,
    "incompetent": TestOutcome.INCOMPETENT,
}


def main(
    out: Path = Path("runs/mutation"),
    sample: int = 200,
    seed: int = 0,
    rooms: Sequence[str] = ROOMS,
    jobs: int = 1,
    timeout_factor: float = 4.0,
    again: bool = False,
) -> None:
    """Run the mutants that have no result yet, then print scores and survivors.

    Args:
        out: folder of the session and of the copies of the tree.
        sample: viable mutants in each folder.
        seed: of the sample.
        rooms: folders to mutate.
        jobs: mutants at the same time, each in a copy of its own.
        timeout_factor: times the duration of the unmutated tests after which a mutant counts as killed.
        again: run the survivors a second time, with slow tests and the tests that were committed since.
    """
    out = out.resolve()
    commit = commit_of(out, seed)
    copies_of(commit, out, jobs)
    record(out, out / "pristine", workers=jobs)
    with session_in(out, jobs, timeout_factor) as session:
        found = {room: session.sample(room, sample, seed) for room in rooms}
    if again:
        from mutation_again import killed_again

        everything = [one for each in found.values() for one in each]
        second = killed_again(out, commit, everything, jobs, timeout_factor)
    else:
        second = set()
    scores = [
        Score(room=room, verdicts=[_verdict(mutant, result, second) for mutant, result in each])
        for room, each in found.items()
    ]
    print(report(scores, commit, sample, seed))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of one mutant.

    Attributes:
        place: file and line.
        change: what was written and what the mutant has instead.
        killed: whether a test noticed.
        slow: whether it was killed by the time limit.
        again: whether only a slow test noticed, or one that was written since.
    """

    place: str
    change: str
    killed: bool
    slow: bool = False
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Score:
    """The results of a folder.

    Attributes:
        room: the folder.
        verdicts: of the viable mutants.
    """

    room: str
    verdicts: Sequence[Verdict]


def report(scores: Sequence[Score], commit: str, sample: int, seed: int) -> str:
    """Return the table of the document and the list of survivors, as Markdown."""
    lines = [
        f"Commit {commit[:7]}, seed {seed}, {sample} viable mutants in each folder.",
        "",
        "| folder | mutants | killed | by time | by slow and new tests | survived | killed, % (95% CI) |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    everything = [one for score in scores for one in score.verdicts]
    for score in (*scores, Score(room="all", verdicts=everything)):
        killed = sum(one.killed for one in score.verdicts)
        slow, again = sum(one.slow for one in score.verdicts), sum(one.again for one in score.verdicts)
        count = len(score.verdicts)
        row = f"| {score.room} | {count} | {killed} | {slow} | {again} | {count - killed} |"
        lines.append(f"{row} {_percent(killed, count)} |")
    lines += ["", "Survivors:", ""]
    survivors = [one for one in everything if not one.killed]
    return "\n".join([*lines, *(f"- `{one.place}`: {one.change}" for one in survivors)])


def _percent(killed: int, count: int) -> str:
    if not count:
        return ""
    interval = binomtest(killed, count).proportion_ci(method="wilson")
    return f"{100 * killed / count:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def commit_of(out: Path, seed: int) -> str:
    """Return the commit that a session began with: HEAD for a new one.

    Raises:
        SystemExit: the session has another seed.
    """
    out.mkdir(parents=True, exist_ok=True)
    about = out / "session.json"
    if not about.exists():
        about.write_text(json.dumps({"commit": git("rev-parse", "HEAD").decode().strip(), "seed": seed}))
    session = json.loads(about.read_text())
    if session["seed"] != seed:
        sys.exit(f"{out} has a session with seed {session['seed']}: name another --out")
    return str(session["commit"])


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
            f"  {_place(mutant)}: {result.test_outcome.value}, {time.perf_counter() - began:.0f} s",
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


def _place(mutant: MutationSpec) -> str:
    return f"{mutant.module_path.as_posix()}:{mutant.start_pos[0]}"


def change_of(result: WorkResult) -> tuple[str, str]:
    """Return the lines that a mutant replaces, and those that it puts there."""
    lines = (result.diff or "").splitlines()[2:]
    before, after = ("\n".join(line[1:] for line in lines if line.startswith(sign)) for sign in ("-", "+"))
    return before, after


def _verdict(mutant: MutationSpec, result: WorkResult, second: Container[str] = ()) -> Verdict:
    before, after = (" ".join(map(str.strip, text.splitlines())) for text in change_of(result))
    again = identifier(mutant) in second
    return Verdict(
        place=_place(mutant),
        change=f"`{before}` became `{after}`",
        killed=again or result.test_outcome == TestOutcome.KILLED,
        slow=result.output == "timeout",
        again=again,
    )


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
