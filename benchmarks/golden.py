"""Compares the numbers of this tree with those of a commit, or with `tests/golden/numbers.json`.

    python benchmarks/golden.py --against COMMIT
    python benchmarks/golden.py --check
    python benchmarks/golden.py --write --demo

Each comparison in `golden_set.py` runs in both trees on the same files: one process each, one thread, an
empty cache, and the tree's own packages. Utility and its parts must agree to 1e-9 for every method, case,
seed and split. Times, versions and statistics over seeds are not compared. The exit status is 1 if a number
differs or a row is missing, unless `golden_set.EXPECTED` lists the place with a reason.

`--write` stores this tree's numbers with the versions of the libraries and the processor. Other versions and
other processors round differently, so `--check` and the test need the same ones. `--against` works anywhere.
A tree takes about eight minutes of one core, and the demo (`--demo`) some more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from golden_rows import Difference, Rows, compare_rows, rows_of
from golden_set import COMPARISONS, DEMO, EXPECTED, Comparison, words_of
from golden_tables import write_files

__all__ = ["CommandFailed", "Committed", "machine", "mismatch", "numbers_of", "verdict_on"]

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "tests" / "golden" / "numbers.json"
_PACKAGES = ("router_rl", "envs", "experts", "train_router")
_SHOWN = 5


class CommandFailed(RuntimeError):
    """A command returned an error, or a tree imported another tree's package."""


@dataclass(frozen=True, kw_only=True)
class Committed:
    """The committed numbers.

    Attributes:
        machine: libraries and processor that gave them, as `machine()` returns.
        rows: numbers by comparison.
    """

    machine: Mapping[str, str]
    rows: Mapping[str, Rows]

    @classmethod
    def read(cls, path: Path = COMMITTED) -> Committed:
        """Read a file that `write` wrote."""
        kept = json.loads(path.read_text(encoding="utf-8"))
        rows: dict[str, Rows] = {}
        for name, table in kept["comparisons"].items():
            parts = table["parts"]
            rows[name] = {
                key: {part: value for part, value in zip(parts, values, strict=True) if value is not None}
                for key, values in table["rows"].items()
            }
        return cls(machine=kept["machine"], rows=rows)

    def write(self, path: Path = COMMITTED) -> None:
        """Write one line per row, and floats as `repr` does, so that `read` returns the same floats."""
        tables: list[str] = []
        for name, rows in self.rows.items():
            parts = list(dict.fromkeys(part for numbers in rows.values() for part in numbers))
            values = {key: [numbers.get(part) for part in parts] for key, numbers in rows.items()}
            body = ",\n".join(
                f"{json.dumps(key)}:{json.dumps(one, separators=(',', ':'))}" for key, one in values.items()
            )
            tables.append(f'{json.dumps(name)}: {{"parts": {json.dumps(parts)}, "rows": {{\n{body}\n}}}}')
        text = f'{{"machine": {json.dumps(dict(self.machine))},\n"comparisons": {{\n'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + ",\n".join(tables) + "\n}}\n", encoding="utf-8")


def machine() -> dict[str, str]:
    """Return what the last digits of a number depend on: versions of libraries, and the processor."""
    names = ("torch", "numpy", "scipy", "scikit-learn", "stable-baselines3")
    return {
        **{name: version(name) for name in names},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Return vendor, family and model: libraries choose their kernels by these."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = [re.search(rf"^{name}\s*: (.+)$", text, re.M) for name in ("vendor_id", "cpu family", "model")]
    known = " ".join(one.group(1) for one in found if one is not None)
    return known or f"{platform.machine()} {platform.processor()}"


def mismatch(committed: Mapping[str, str]) -> list[str]:
    """Return the libraries and processors that differ here; Python's version may differ."""
    here = machine()
    return [
        f"{name} {value} (here {here[name]})"
        for name, value in committed.items()
        if name != "python" and value != here[name]
    ]


def numbers_of(tree: Path, one: Comparison, files: Path, work: Path) -> Rows:
    """Run a comparison in a tree and return its numbers.

    Args:
        tree: root of a repository.
        one: the comparison.
        files: folder of `golden_tables.write_files`.
        work: folder for results and the tree's cache.

    Raises:
        CommandFailed: the command returned an error.
    """
    out = work / one.name
    shutil.rmtree(out, ignore_errors=True)  # finished fits would be read again
    words = words_of(tree, one, files, out)
    _run(tree, [str(tree / "train_router.py"), *words], work)
    return rows_of(json.loads((out / "results.json").read_text(encoding="utf-8")))


def _run(tree: Path, words: Sequence[str], work: Path) -> str:
    given = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ones = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    ours = {"PYTHONPATH": str(tree), "ROUTER_RL_CACHE": str(work / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tree,
        env=given | ones | ours,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CommandFailed(f"{' '.join(words)}\nended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def check_imports(tree: Path, work: Path) -> None:
    """Raise CommandFailed unless a process in a tree imports the tree's own packages."""
    code = f"import {', '.join(_PACKAGES)}; print(*({'.__file__, '.join(_PACKAGES)}.__file__), sep='\\n')"
    for path in _run(tree, ["-c", code], work).split("\n"):
        if path and not Path(path).resolve().is_relative_to(tree.resolve()):
            raise CommandFailed(f"{tree} imports {path}")


@contextmanager
def worktree(commit: str, folder: Path) -> Generator[Path]:
    """Check a commit out in a new folder, and remove it at the end."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", str(folder), commit], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True, capture_output=True)


def verdict_on(name: str, before: Rows, after: Rows) -> tuple[bool, str]:
    """Return whether two sides agree on a comparison, and its lines of the report."""
    found = compare_rows(name, before, after, EXPECTED)
    wrong = [one for one in found if one.reason is None]
    largest = max((one.size for one in found), default=0.0)
    said = "equal" if not found else f"{len(wrong)} differ, {len(found) - len(wrong)} expected"
    lines = [f"{name:<24}{len(before):>6}{len(after):>7}{largest:>12.2g}  {said}"]
    lines += [_line(one) for one in wrong[:_SHOWN]]
    lines += [f"  {why}" for why in dict.fromkeys(one.reason for one in found if one.reason is not None)]
    return not wrong, "\n".join(lines)


def _line(one: Difference) -> str:
    return f"  {one.place}: {one.before!r} before, {one.after!r} after"


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The comparisons to run in each tree."""

    chosen: Sequence[Comparison]
    files: Path
    jobs: int
    failed: dict[str, str] = field(default_factory=dict)

    def run(self, tree: Path, work: Path) -> dict[str, Rows]:
        """Return the numbers of a tree by comparison; errors go to `failed`."""
        check_imports(tree, work)

        def one(comparison: Comparison) -> Rows | None:
            began = time.perf_counter()
            try:
                rows = numbers_of(tree, comparison, self.files, work)
            except CommandFailed as error:
                self.failed[comparison.name] = f"in {tree}: {error}"
                print(f"  {comparison.name}: failed", file=sys.stderr, flush=True)
                return None
            print(f"  {comparison.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
            return rows

        found: dict[str, Rows] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            for comparison, rows in zip(self.chosen, pool.map(one, self.chosen), strict=True):
                if rows is not None:
                    found[comparison.name] = rows
        return found


def main(words: Sequence[str] | None = None) -> int:
    """Compare the numbers of two trees; the exit status is 1 where they differ.

    Args:
        words: the command line; the process's own if None.
    """
    parser = argparse.ArgumentParser(description="Hold the numbers of this tree equal to older ones.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--against", metavar="COMMIT", help="compare with a commit")
    what.add_argument("--check", action="store_true", help="compare with the committed numbers")
    what.add_argument("--write", action="store_true", help="store this tree's numbers")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the tree that is tested")
    parser.add_argument("--only", help="names of comparisons, with commas")
    parser.add_argument("--demo", action="store_true", help="run the demo too, some minutes more")
    parser.add_argument("--jobs", type=int, default=1, help="comparisons at a time, one thread each")
    given = parser.parse_args(words)
    known = {one.name: one for one in (*COMPARISONS, DEMO)}
    named = None if given.only is None else given.only.split(",")
    if unknown := set(named or ()) - set(known):
        parser.error(f"no comparisons: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    chosen = [
        one for one in known.values() if (one.name in named if named else one is not DEMO or given.demo)
    ]
    committed = Committed.read() if COMMITTED.exists() else None
    if given.check and committed is None:
        parser.error(f"{COMMITTED} is missing: use --write")
    if given.check and committed is not None and (other := mismatch(committed.machine)):
        parser.error(f"the committed numbers are of {', '.join(other)}: use --against COMMIT")
    with tempfile.TemporaryDirectory() as home:
        files = Path(home) / "files"
        write_files(files)
        job = _Job(chosen=chosen, files=files, jobs=given.jobs)
        after = job.run(given.tree.resolve(), Path(home) / "after")
        if given.against is not None:
            with worktree(given.against, Path(home) / "tree") as tree:
                before = job.run(tree, Path(home) / "before")
        else:
            before = {} if committed is None else committed.rows
    if not given.write:
        return _report([one.name for one in chosen], before, after, job.failed)
    for name, why in job.failed.items():
        print(f"{name} did not run {why}", file=sys.stderr)
    if not job.failed:
        kept = before if committed is not None and committed.machine == machine() else {}
        rows = {name: after.get(name, kept.get(name)) for name in known}
        found = {name: one for name, one in rows.items() if one is not None}
        Committed(machine=machine(), rows=found).write()
    return 1 if job.failed else 0


def _report(
    names: Sequence[str], before: Mapping[str, Rows], after: Mapping[str, Rows], failed: Mapping[str, str]
) -> int:
    print(f"{'comparison':<24}{'before':>6}{'after':>7}{'largest':>12}")
    agree = not failed
    for name in names:
        if name in failed or name not in before or name not in after:
            print(f"{name:<24}{'did not run: ' + failed.get(name, 'no numbers')}")
            agree = False
            continue
        equal, said = verdict_on(name, before[name], after[name])
        print(said)
        agree = agree and equal
    print("the trees agree" if agree else "the trees differ")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
