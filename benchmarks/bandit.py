"""What full information is worth: learning from all outcomes, and from one a query (docs/RESULTS.md).

    python benchmarks/bandit.py --out runs/bandit --jobs 2

Every method learns twice on the same rows, features, scorer and tries: from the outcomes of all experts on
every query, and from one outcome a query. In the second case a log asks one expert for each training and
validation query, drawn evenly; seed s learns from a log of its own, so that the spread over seeds holds the
log's. The two bandits choose for themselves instead, each query once, and read the log for validation alone.
How far a logged outcome may count (the clip) is tried with the other settings. All that is chosen is chosen
with seed 0, by validation, which under bandit feedback is a doubly robust estimate. Test rows are full.
Writes `bandit.json` and prints Markdown; finished fits are kept, and a stopped benchmark goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import jsonargparse
import numpy as np
import torch
from rich.console import Console

from experts import InputError, OutcomeTable, open_table
from experts.io.atomic import write_json
from router_rl import Objective
from router_rl.methods.registry import find_method
from router_rl.problems.logged_feedback import LogConfig
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.statistics import interval
from router_rl.reports.terminal import progress_of
from router_rl.routing import Hard
from router_rl.studies.trial import Cell, CellResult, run_cell, table_digest

CLIPS = (None, 3.0)
SELF_CHOOSING = ("linucb", "thompson")


@dataclass(frozen=True, kw_only=True)
class Study:
    """One table, and the fits made on it.

    Attributes:
        table: its rows.
        objective: what to maximise.
        folder: where finished fits are kept.
        seeds, tries, jobs: of every method and feedback.
        tell: is told of every finished fit.
    """

    table: OutcomeTable
    objective: Objective
    folder: Path
    seeds: int
    tries: int
    jobs: int
    tell: Callable[[str], None]

    def fits(self, method: str, feedback: str) -> list[CellResult]:
        """A fit for each seed; settings and clip are chosen on validation with seed 0."""
        logs = [LogConfig(clip=clip) for clip in CLIPS if feedback == "bandit"] or [None]
        if method in SELF_CHOOSING:  # no logged outcome is learned from, so there is nothing to clip
            logs = logs[:1]
        cells = [
            (Cell(method=method, settings=settings, objective=self.objective, seed=0), log)
            for settings in find_method("routing", method).candidates(self.tries)
            for log in logs
        ]
        first = self._run(cells)
        best = max(range(len(cells)), key=lambda index: first[index].validation["utility"])
        cell, log = cells[best]
        rest = [
            (replace(cell, seed=seed), None if log is None else replace(log, seed=seed))
            for seed in range(1, self.seeds)
        ]
        return [first[best], *self._run(rest)]

    def _run(self, cells: Sequence[tuple[Cell, LogConfig | None]]) -> list[CellResult]:
        digest, test = table_digest(self.table), self.table.part("test")

        def one(cell: Cell, log: LogConfig | None) -> CellResult:
            torch.set_num_threads(1)
            feedback = "full" if log is None else "bandit"
            task = RoutingProblem(self.table, self.objective, Hard(), feedback=feedback, log=log)
            return run_cell(cell, task, test, self.folder / "cells", digest=digest)

        found: list[CellResult] = []
        with joblib.parallel_config("loky", n_jobs=self.jobs, inner_max_num_threads=1):
            for result in joblib.Parallel(return_as="generator")(
                joblib.delayed(one)(*cell) for cell in cells
            ):
                found.append(result)
                self.tell(f"{result.cell.method}, seed {result.cell.seed}")
        return found


def row(study: Study, method: str) -> dict[str, Any]:
    """Utility under both feedbacks, and what is lost, with paired intervals over queries and seeds."""
    utility: dict[str, np.ndarray] = {}
    chosen: dict[str, Any] = {}
    for feedback in ("full", "bandit"):
        fits = study.fits(method, feedback)
        utility[feedback] = np.stack([result.test.utility for result in fits])
        chosen[feedback] = {"settings": asdict(fits[0].cell.settings), "fits": [str(f.folder) for f in fits]}
    values = {**utility, "lost": utility["full"] - utility["bandit"]}
    return {
        "method": method,
        "family": find_method("routing", method).family,
        **{name: asdict(interval(value)) for name, value in values.items()},
        "chosen": chosen,
    }


def markdown(name: str, study: Study, rows: Sequence[dict[str, Any]]) -> str:
    """The rows of one table, best under bandit feedback first."""
    lines = [
        f"### {name}: full information and one outcome a query",
        "",
        f"Compute weight {study.objective.compute_weight:g}, hard selection, "
        f"{len(study.table.experts)} experts, {len(study.table.part('train'))} training queries; utility on "
        f"test rows, mean of {study.seeds} seed(s) with 95% interval; {study.tries} tries, under bandit "
        "feedback each with every clip.",
        "",
        "| method | family | full | bandit | lost |",
        "|---|---|---|---|---|",
    ]
    for found in sorted(rows, key=lambda found: -found["bandit"]["mean"]):
        cells = [
            f"{value['mean']:.4f} ({value['low']:.4f} to {value['high']:.4f})"
            for value in (found[column] for column in ("full", "bandit", "lost"))
        ]
        lines.append(f"| {found['method']} | {found['family']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main(
    out: Path = Path("runs/bandit"),
    tables: tuple[str, ...] = ("digits", "fashion-mnist"),
    methods: tuple[str, ...] = (
        *("exact_pg", "warm_exact_pg", "router_ppo", "softmax_gate", "ridge", "linucb", "thompson"),
        *("random", "best_single"),
    ),
    compute_weight: float = 0.1,
    seeds: int = 5,
    tries: int = 4,
    jobs: int = 1,
) -> None:
    """Learn with full and with bandit feedback on every table.

    Args:
        out: folder for finished fits and JSON.
        tables: embedded sources or Parquet paths.
        methods: names of methods.
        compute_weight: of the objective.
        seeds: training seeds, and logs, for each method.
        tries: settings tried for each method, chosen on validation; each under every clip.
        jobs: processes.
    """
    err = Console(stderr=True)
    for method in methods:
        find_method(method)
    objective = Objective(compute_weight=compute_weight)
    found: dict[str, list[dict[str, Any]]] = {}
    for name in tables:
        try:
            table = open_table(name)
        except InputError as error:
            err.print(f"{name}: not run: {error}")
            continue
        # Each method: its candidates in full and under every clip, then the other seeds of both.
        tried = {method: len(find_method("routing", method).candidates(tries)) for method in methods}
        clips = {method: 1 if method in SELF_CHOOSING else len(CLIPS) for method in methods}
        fits = sum(tried[method] * (1 + clips[method]) + 2 * (seeds - 1) for method in methods)
        done = 0
        with progress_of(f"fits of {name}", err) as progress:

            def tell(
                what: str, fits: int = fits, progress: Callable[[int, int, str], None] = progress
            ) -> None:
                nonlocal done
                done += 1
                progress(done, fits, what)

            study = Study(
                table=table,
                objective=objective,
                folder=out / Path(name).stem,
                seeds=seeds,
                n_trials=tries,
                jobs=jobs,
                tell=tell,
            )
            found[name] = [row(study, method) for method in methods]
        write_json(out / "bandit.json", found)
        print(markdown(name, study, found[name]), flush=True)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
