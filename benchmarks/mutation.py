"""How many planted bugs the nearest tests notice: a seeded sample of mutants in each of four folders.

    python benchmarks/mutation.py --jobs 2
    python benchmarks/mutation.py --sample 10

cosmic-ray makes the mutants: another operator, comparison, number or constant, a negated condition, a loop
that does not run. `mutation_sample.py` says which count as viable, `mutation_tests.py` which tests are
nearest. A mutant is killed if one of these tests fails or if they take longer than `--timeout-factor` times
the unmutated run.

Everything runs in copies of the committed tree below `--out`, so that the working tree does not change. The
session is in `session.sqlite`, in cosmic-ray's format: an interrupted run continues with the same command,
and a larger `--sample` or another `--rooms` extends the same session. Another commit or seed needs another
`--out`. Prints the score of each folder with its 95% confidence interval (Wilson), and the survivors.
"""

from __future__ import annotations

import difflib
import io
import json
import queue
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Lock

import jsonargparse
from cosmic_ray.testing import run_tests
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult
from mutation_sample import changes_what_runs, identifier, mutants_in, mutated
from mutation_tests import NearestTests
from scipy.stats import binomtest

__all__ = ["Score", "Verdict", "main", "report"]

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("router_rl/studies", "router_rl/problems", "router_rl/methods", "router_rl/routing/selection")
_ALLOWANCE = 30.0  # seconds that a run may take beyond the factor
_IMPORT_SECONDS = 120.0
_OUTPUT = 2_000  # characters kept of what the tests print


def main(
    out: Path = Path("runs/mutation"),
    sample: int = 200,
    seed: int = 0,
    rooms: Sequence[str] = ROOMS,
    jobs: int = 1,
    timeout_factor: float = 4.0,
) -> None:
    """Run the mutants that have no result yet, then print scores and survivors.

    Args:
        out: folder of the session and of the copies of the tree.
        sample: viable mutants in each folder.
        seed: of the sample.
        rooms: folders to mutate.
        jobs: mutants at the same time, each in a copy of its own.
        timeout_factor: times the duration of the unmutated tests after which a mutant counts as killed.
    """
    out = out.resolve()
    commit = _prepared(out, seed, jobs)
    with use_db(str(out / "session.sqlite"), WorkDB.Mode.create) as results:
        session = _Session(out, results, jobs, timeout_factor)
        scores = [session.score(room, sample, seed) for room in rooms]
    print(report(scores, commit, sample, seed))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of one mutant.

    Attributes:
        place: file and line.
        change: what was written and what the mutant has instead.
        killed: whether a test noticed.
        slow: whether it was killed by the time limit.
    """

    place: str
    change: str
    killed: bool
    slow: bool = False


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
        "| folder | mutants | killed | of these by time | survived | killed, % (95% CI) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    everything = [one for score in scores for one in score.verdicts]
    for score in (*scores, Score(room="all", verdicts=everything)):
        killed = sum(one.killed for one in score.verdicts)
        slow, count = sum(one.slow for one in score.verdicts), len(score.verdicts)
        lines.append(
            f"| {score.room} | {count} | {killed} | {slow} | {count - killed} | {_percent(killed, count)} |"
        )
    lines += ["", "Survivors:", ""]
    survivors = [one for one in everything if not one.killed]
    return "\n".join([*lines, *(f"- `{one.place}`: {one.change}" for one in survivors)])


def _percent(killed: int, count: int) -> str:
    if not count:
        return ""
    interval = binomtest(killed, count).proportion_ci(method="wilson")
    return f"{100 * killed / count:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def _prepared(out: Path, seed: int, jobs: int) -> str:
    """Make the copies of the tree as they were committed when the session began; returns that commit.

    Raises:
        SystemExit: the session has another seed.
    """
    out.mkdir(parents=True, exist_ok=True)
    about = out / "session.json"
    if not about.exists():
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        about.write_text(json.dumps({"commit": head.stdout.strip(), "seed": seed}))
    session = json.loads(about.read_text())
    if session["seed"] != seed:
        sys.exit(f"{out} has a session with seed {session['seed']}: name another --out")
    archive = subprocess.run(["git", "archive", session["commit"]], cwd=ROOT, capture_output=True, check=True)
    for name in (
        "pristine",
        *(f"tree{job}" for job in range(jobs)),
    ):  # a killed run leaves a mutant in its copy
        shutil.rmtree(out / name, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(out / name, filter="data")
    return session["commit"]


class _Session:
    """Runs mutants and keeps their results.

    Args:
        out: folder with the copies of the tree.
        results: cosmic-ray's database.
        jobs: mutants at the same time.
        factor: time limit of a mutant, as a multiple of the unmutated run.
    """

    def __init__(self, out: Path, results: WorkDB, jobs: int, factor: float) -> None:
        self._results, self._jobs, self._factor = results, jobs, factor
        self._pristine = out / "pristine"
        self._nearest = cache(NearestTests(self._pristine).of)
        self._trees: queue.Queue[Path] = queue.Queue()
        for job in range(jobs):
            self._trees.put(out / f"tree{job}")
        self._known = {item.job_id: result for item, result in results.completed_work_items}
        self._listed = {item.job_id for item in results.work_items}
        self._lock = Lock()
        self._seconds_file = out / "seconds.json"
        known = json.loads(self._seconds_file.read_text()) if self._seconds_file.exists() else {}
        self._seconds: dict[str, float] = known
        self._check_imports(out / "tree0")

    def _check_imports(self, tree: Path) -> None:
        """Raise SystemExit if a copy's tests would import the packages of another tree."""
        code = f"import router_rl; assert router_rl.__file__.startswith({str(tree)!r}), router_rl.__file__"
        outcome, _ = run_tests(_python(tree, "-c", code), _IMPORT_SECONDS)
        if outcome != TestOutcome.SURVIVED:
            sys.exit(f"{tree} does not import its own router_rl")

    def score(self, room: str, sample: int, seed: int) -> Score:
        """Return the results of the first viable mutants of a folder; those that have none run first."""
        plausible = self._plausible(room, seed)
        verdicts: list[Verdict] = []
        with ThreadPoolExecutor(self._jobs) as pool:
            while batch := list(islice(plausible, sample - len(verdicts))):
                for mutant, result in zip(batch, pool.map(self._result, batch), strict=True):
                    if result.test_outcome != TestOutcome.INCOMPETENT:
                        verdicts.append(_verdict(mutant, result))
        return Score(room=room, verdicts=verdicts)

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
        tree = self._trees.get()
        began = time.perf_counter()
        try:
            result = self._tested(mutant, tree)
        finally:
            self._trees.put(tree)
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

    def _tested(self, mutant: MutationSpec, tree: Path) -> WorkResult:
        """Plant a mutant in a copy of the tree, run its tests and take it out again."""
        tests = self._nearest(mutant.module_path.as_posix())
        limit = _ALLOWANCE + self._factor * sum(self._unmutated(test, tree) for test in tests)
        source = self._source(mutant)
        changed = mutated(source, mutant)
        assert changed is not None
        path = tree / mutant.module_path
        path.write_text(changed, encoding="utf-8")
        try:
            outcome, output = run_tests(_pytest(tree, tests), limit) if tests else (TestOutcome.SURVIVED, "")
            if outcome == TestOutcome.KILLED and " failed" not in output and output != "timeout":
                module = ".".join(mutant.module_path.with_suffix("").parts)
                imported, _ = run_tests(_python(tree, "-c", f"import {module}"), _IMPORT_SECONDS)
                if imported != TestOutcome.SURVIVED:
                    outcome = TestOutcome.INCOMPETENT
        finally:
            path.write_text(source, encoding="utf-8")
        return WorkResult(
            worker_outcome=WorkerOutcome.NORMAL,
            output=output[-_OUTPUT:],
            test_outcome=outcome,
            diff="\n".join(difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)),
        )

    def _unmutated(self, test: str, tree: Path) -> float:
        """Seconds that a test file takes without a mutant.

        Raises:
            SystemExit: it fails.
        """
        with self._lock:
            if test not in self._seconds:
                began = time.perf_counter()
                outcome, output = run_tests(_pytest(tree, [test]), None)
                if outcome != TestOutcome.SURVIVED:
                    sys.exit(f"{test} fails without a mutant:\n{output}")
                self._seconds[test] = time.perf_counter() - began
                self._seconds_file.write_text(json.dumps(self._seconds, indent=1))
            return self._seconds[test]


def _pytest(tree: Path, tests: Sequence[str]) -> str:
    scratch = tree.with_name(f"{tree.name}-tmp")
    return _python(
        tree, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--basetemp={scratch}", *tests
    )


def _python(tree: Path, *words: str) -> str:
    """A command in a copy of the tree, with the copy's packages."""
    return shlex.join(
        ["env", "-C", str(tree), f"PYTHONPATH={tree}", "OMP_NUM_THREADS=1", sys.executable, *words]
    )


def _place(mutant: MutationSpec) -> str:
    return f"{mutant.module_path.as_posix()}:{mutant.start_pos[0]}"


def _verdict(mutant: MutationSpec, result: WorkResult) -> Verdict:
    lines = (result.diff or "").splitlines()[2:]
    before, after = (
        " ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in ("-", "+")
    )
    return Verdict(
        place=_place(mutant),
        change=f"`{before}` became `{after}`",
        killed=result.test_outcome == TestOutcome.KILLED,
        slow=result.output == "timeout",
    )


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
