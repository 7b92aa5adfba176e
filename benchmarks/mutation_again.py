"""The second run of survivors: do slow tests notice them, or tests that were written since the session began?

The first run has the quick tests of the session's commit. This one has, of today's commit, the slow tests in
the folders that mirror those of the survivors, and the test files that changed. A mutant is planted in place
of the lines that it changed; if these are not there any more, or several times, it stays a survivor. The
results are a session of their own below the first one's folder. At a later commit, what still survives runs
again, with the test files that changed since the last such session.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from attrs import evolve
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkResult
from mutation_sample import identifier
from mutation_session import Session, Worker, change_of, copies_of, git, session_in
from mutation_tests import CoveringTests, record

__all__ = ["Again", "killed_again", "moved"]


def killed_again(
    out: Path, commit: str, results: Sequence[tuple[MutationSpec, WorkResult]], jobs: int, factor: float
) -> set[str]:
    """Return the identifiers of the survivors that this run kills.

    Args:
        out: folder of the session.
        commit: that it began with.
        results: its mutants with their results.
        jobs: mutants at the same time.
        factor: time limit of a mutant, as a multiple of the unmutated run.
    """
    head = git("rev-parse", "HEAD").decode().strip()
    folder = out / f"again-{head[:7]}"
    earlier = sorted(set(out.glob("again-*")) - {folder}, key=lambda path: path.stat().st_ctime)
    done = {job for path in earlier for job in _killed_in(path)}
    survivors = [
        (mutant, result)
        for mutant, result in results
        if result.test_outcome == TestOutcome.SURVIVED and identifier(mutant) not in done
    ]
    if earlier:
        commit = git("rev-parse", earlier[-1].name.removeprefix("again-")).decode().strip()
    folder.mkdir(exist_ok=True)
    copies_of(head, folder, jobs)
    tree = folder / "pristine"
    changed = git("diff", "--name-only", "--diff-filter=d", commit, head, "--", "tests").decode().split()
    files = [name for name in changed if Path(name).name.startswith("test_") and name.endswith(".py")]
    folders = set() if earlier else {Path("tests") / mutant.module_path.parent for mutant, _ in survivors}
    slow = [test for test in _slow_tests(tree, folders) if test.partition("::")[0] not in files]
    record(folder, tree, workers=jobs, tests=[*files, *slow])
    there: list[MutationSpec] = []
    sources: dict[str, tuple[str, str]] = {}
    for mutant, result in survivors:
        path = tree / mutant.module_path
        today = moved(mutant, result, path.read_text(encoding="utf-8")) if path.exists() else None
        if today is not None:
            there.append(today[0])
            sources[identifier(mutant)] = today[1]

    def kind(results: WorkDB, tests: CoveringTests, workers: Sequence[Worker], factor: float) -> Session:
        return Again(results, tests, workers, factor, sources)

    with session_in(folder, jobs, factor, kind) as session:
        found = session.results(there)
    return done | {identifier(one) for one, result in found if result.test_outcome == TestOutcome.KILLED}


def _killed_in(folder: Path) -> list[str]:
    """Identifiers of the mutants that a session of a folder killed."""
    with use_db(str(folder / "session.sqlite"), WorkDB.Mode.create) as results:
        pairs = list(results.completed_work_items)
    return [item.job_id for item, result in pairs if result.test_outcome == TestOutcome.KILLED]


class Again(Session):
    """A session whose mutants are given as text.

    Args:
        results: cosmic-ray's database.
        tests: of the mutants.
        workers: one for each mutant at the same time.
        factor: time limit of a mutant, as a multiple of the unmutated run.
        sources: source of each mutant's file, without and with it, by the mutant's identifier.
    """

    def __init__(
        self,
        results: WorkDB,
        tests: CoveringTests,
        workers: Sequence[Worker],
        factor: float,
        sources: Mapping[str, tuple[str, str]],
    ) -> None:
        super().__init__(results, tests, workers, factor)
        self._sources = sources

    def planted(self, mutant: MutationSpec) -> tuple[str, str]:
        """Return the source of a mutant's file, without and with it."""
        return self._sources[identifier(mutant)]


def moved(
    mutant: MutationSpec, result: WorkResult, source: str
) -> tuple[MutationSpec, tuple[str, str]] | None:
    """Return a mutant at its place in today's source, and the source without and with it; None without one.

    Args:
        mutant: of the session's commit.
        result: its result, with the lines that it changed.
        source: of its file today.
    """
    before, after = (f"{text}\n" for text in change_of(result))
    if f"\n{source}".count(f"\n{before}") != 1:
        return None
    at = f"\n{source}".index(f"\n{before}")
    line = source[:at].count("\n") + 1
    first, last = mutant.start_pos, mutant.end_pos
    place = {"start_pos": (line, first[1]), "end_pos": (line + last[0] - first[0], last[1])}
    return evolve(mutant, **place), (source, source[:at] + after + source[at + len(before) :])


def _slow_tests(tree: Path, folders: Collection[Path]) -> list[str]:
    """Node ids of the slow tests in the files of some folders, without those of their subfolders."""
    names = [str(folder) for folder in sorted(folders) if (tree / folder).is_dir()]
    if not names:
        return []
    options = ["--collect-only", "-n", "0", "-m", "slow", "-o", "addopts=-q --import-mode=importlib"]
    command = [sys.executable, "-m", "pytest", *options, *names]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=True)
    tests = [line for line in done.stdout.splitlines() if "::" in line]
    return [test for test in tests if Path(test.partition("::")[0]).parent in folders]
