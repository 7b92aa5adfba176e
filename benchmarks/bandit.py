"""What full information is worth: learning from all outcomes, and from one per query.

    python benchmarks/bandit.py --out runs/bandit --jobs 2

Every method learns twice on the same rows, features, scorer and number of trials: from the outcomes of all
experts on every query, and from one outcome per query. In the second case a log asks one expert for each
training and validation query, drawn uniformly. Seed s learns from its own log, so that the spread over seeds
includes the log's. The two bandits choose for themselves instead, each query once, and read the log for
validation alone. The clip, which limits the weight of a logged outcome, is a hyperparameter like the others.
Hyperparameters are chosen with seed 0, by validation utility, which under bandit feedback is a doubly robust
estimate. Test rows have all outcomes. Writes `bandit.json` and prints Markdown; finished trials are kept, and
an interrupted run resumes from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
from parallel_trials import run_trials
from rich.console import Console

from experts import InputError, OutcomeTable, open_table
from experts.io.atomic import write_json
from router_rl import Jobs, Objective
from router_rl.methods.fit import learnable
from router_rl.problems.logged_feedback import LogConfig
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.statistics import interval, paired_difference
from router_rl.reports.terminal import progress_of
from router_rl.routing import Hard
from router_rl.studies.trial import Trial, TrialResult

CLIPS = (None, 3.0)
SELF_CHOOSING = ("linucb", "thompson")


@dataclass(frozen=True, kw_only=True)
class Study:
    """One table, and the trials run on it.

    Attributes:
        table: its rows.
        objective: what to maximise.
        folder: where finished trials are kept.
        seeds, n_trials, jobs: of every method and feedback.
        on_trial: is passed the name of every finished trial.
        problems: one for full feedback (the key None) and one for each log.
    """

    table: OutcomeTable
    objective: Objective
    folder: Path
    seeds: int
    n_trials: int
    jobs: Jobs
    on_trial: Callable[[str], None]
    problems: dict[LogConfig | None, RoutingProblem] = field(default_factory=dict)

    def problem(self, log: LogConfig | None) -> RoutingProblem:
        """The problem under full feedback, or under bandit feedback from a log."""
        if log not in self.problems:
            changes = {} if log is None else {"feedback": "bandit", "log": log}
            self.problems[log] = RoutingProblem(self.table, self.objective, Hard(), **changes)
        return self.problems[log]

    def fits(self, method: str, feedback: str) -> list[TrialResult]:
        """A result for each seed; hyperparameters and clip are chosen on validation with seed 0."""
        candidates = [
            (self._trial(method, hyperparameters, log), log)
            for hyperparameters in learnable(method, self.problem(None)).candidates(self.n_trials)
            for log in logs(method, feedback)
        ]
        first = self._run(candidates)
        best = max(range(len(candidates)), key=lambda index: first[index].validation_utility)
        trial, log = candidates[best]
        rest = [
            (replace(trial, seed=seed), None if log is None else replace(log, seed=seed))
            for seed in range(1, self.seeds)
        ]
        return [first[best], *self._run(rest)]

    def _trial(self, method: str, hyperparameters: Any, log: LogConfig | None) -> Trial:
        case = self.problem(log).case
        return Trial(method=method, hyperparameters=hyperparameters, case=case, seed=0)

    def _run(self, trials: Sequence[tuple[Trial, LogConfig | None]]) -> list[TrialResult]:
        return run_trials(
            [(trial, self.problem(log)) for trial, log in trials],
            self.folder / "trials",
            jobs=self.jobs,
            on_trial=lambda result: self.on_trial(f"{result.trial.method}, seed {result.trial.seed}"),
        )


def logs(method: str, feedback: str) -> list[LogConfig | None]:
    """The logs that are tried with seed 0; None under full feedback."""
    if feedback == "full":
        return [None]
    # A bandit learns from no logged outcome, so there is nothing to clip.
    clips = CLIPS[:1] if method in SELF_CHOOSING else CLIPS
    return [LogConfig(clip=clip) for clip in clips]


def rows_of(study: Study, methods: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each method, with the paired difference to the rival under bandit feedback.

    The rival is the method without RL that has the highest validation utility there.
    """
    rows = [row(study, method) for method in methods]
    others = [found for found in rows if found["family"] != "rl"]
    rival = max(others, key=lambda found: found["validation"], default=rows[0])
    under_bandit = rival["by_query"]
    for found in rows:
        gap = paired_difference(found["by_query"], under_bandit)
        found["minus_rival"] = {"rival": rival["method"], **asdict(gap)}
    for found in rows:
        del found["by_query"]
    return rows


def row(study: Study, method: str) -> dict[str, Any]:
    """Utility under both feedbacks, and what is lost, with paired intervals over queries and seeds."""
    utility: dict[str, np.ndarray] = {}
    chosen: dict[str, Any] = {}
    for feedback in ("full", "bandit"):
        fits = study.fits(method, feedback)
        utility[feedback] = np.stack([result.cases[0].test.utility for result in fits])
        validation = float(np.mean([result.validation_utility for result in fits]))
        chosen[feedback] = {
            "hyperparameters": asdict(fits[0].trial.hyperparameters),
            "trials": [str(result.folder) for result in fits],
        }
    values = {**utility, "lost": utility["full"] - utility["bandit"]}
    return {
        "method": method,
        "family": learnable(method, study.problem(None)).family,
        **{name: asdict(interval(value)) for name, value in values.items()},
        "chosen": chosen,
        "validation": validation,  # under bandit feedback
        "by_query": utility["bandit"],
    }


def markdown(name: str, study: Study, rows: Sequence[dict[str, Any]]) -> str:
    """The rows of one table, best under bandit feedback first."""
    lines = [
        f"### {name}: full information and one outcome per query",
        "",
        f"Compute weight {study.objective.compute_weight:g}, hard selection, "
        f"{len(study.table.experts)} experts, {len(study.table.part('train'))} training queries; utility on "
        f"test rows, mean of {study.seeds} seed(s) with 95% CI; {study.n_trials} trials, under bandit "
        "feedback each with every clip.",
        "",
        f"| method | family | full | bandit | lost | bandit, minus {rows[0]['minus_rival']['rival']} |",
        "|---|---|---|---|---|---|",
    ]
    for found in sorted(rows, key=lambda found: -found["bandit"]["mean"]):
        columns = [
            f"{value['mean']:.4f} ({value['low']:.4f} to {value['high']:.4f})"
            for value in (found[column] for column in ("full", "bandit", "lost"))
        ]
        gap = found["minus_rival"]
        columns.append(f"{gap['mean']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})")
        if found["method"] == gap["rival"]:
            columns[-1] = "rival"
        lines.append(f"| {found['method']} | {found['family']} | {' | '.join(columns)} |")
    return "\n".join([*lines, ""])


def main(
    out: Path = Path("runs/bandit"),
    tables: tuple[str, ...] = ("digits", "fashion-mnist"),
    methods: tuple[str, ...] = (
        *("exact_pg", "warm_exact_pg", "router_ppo", "reinforce", "ppo"),
        *("softmax_gate", "ridge", "linucb", "thompson"),
        *("random", "best_single"),
    ),
    compute_weight: float = 0.1,
    seeds: int = 5,
    n_trials: int = 4,
    jobs: int = 1,
    engine: str = "local",
) -> None:
    """Learn with full and with bandit feedback on every table.

    Args:
        out: folder for finished trials and JSON.
        tables: embedded sources or Parquet paths.
        methods: names of methods.
        compute_weight: of the objective.
        seeds: training seeds, and logs, for each method.
        n_trials: hyperparameter settings tried for each method, chosen on validation; each with every clip.
        jobs: processes.
        engine: local, or ray for a Ray cluster, see docs/scale.md.
    """
    err = Console(stderr=True)
    objective = Objective(compute_weight=compute_weight)
    results: dict[str, list[dict[str, Any]]] = {}
    for name in tables:
        try:
            table = open_table(name)
        except InputError as error:
            err.print(f"{name}: not run: {error}")
            continue
        done = 0
        total = number_of_trials(RoutingProblem(table, objective), methods, seeds, n_trials)
        with progress_of(f"fits of {name}", err) as progress:

            def on_trial(
                what: str, total: int = total, progress: Callable[[int, int, str], None] = progress
            ) -> None:
                nonlocal done
                done += 1
                progress(done, total, what)

            study = Study(
                table=table,
                objective=objective,
                folder=out / Path(name).stem,
                seeds=seeds,
                n_trials=n_trials,
                jobs=Jobs(jobs, engine),
                on_trial=on_trial,
            )
            results[name] = rows_of(study, methods)
        write_json(out / "bandit.json", results)
        print(markdown(name, study, results[name]), flush=True)


def number_of_trials(problem: RoutingProblem, methods: Sequence[str], seeds: int, n_trials: int) -> int:
    """All trials of a table: candidates with seed 0 under every feedback and clip, then the other seeds."""
    total = 0
    for method in methods:
        candidates = learnable(method, problem).candidates(n_trials)
        for feedback in ("full", "bandit"):
            total += len(candidates) * len(logs(method, feedback)) + seeds - 1
    return total


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
