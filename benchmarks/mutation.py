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

import json
import sys
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import jsonargparse
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkResult
from mutation_again import killed_again
from mutation_sample import identifier
from mutation_session import change_of, copies_of, git, place_of, session_in
from mutation_tests import record
from scipy.stats import binomtest

__all__ = ["Score", "Verdict", "main", "report"]

ROOMS = ("router_rl/studies", "router_rl/problems", "router_rl/methods", "router_rl/routing/selection")


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


def _verdict(mutant: MutationSpec, result: WorkResult, second: Container[str] = ()) -> Verdict:
    before, after = (" ".join(map(str.strip, text.splitlines())) for text in change_of(result))
    again = identifier(mutant) in second
    return Verdict(
        place=place_of(mutant),
        change=f"`{before}` became `{after}`",
        killed=again or result.test_outcome == TestOutcome.KILLED,
        slow=result.output == "timeout",
        again=again,
    )


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
