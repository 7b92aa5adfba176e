"""Ways of balancing, at equal quality: the load tables of docs/benchmarks/static.md.

    python benchmarks/load.py --out runs/load --jobs 2

Three ways to spread work over experts, each with a range of strengths:

- an auxiliary loss while the gate trains (`softmax_gate` and `switch_gate`, coefficient `balance`);
- a bias on each logit, adjusted after training against the load of the training rows (strength: from 0, the
  router's own shares, to 1, uniform shares), on the unbalanced softmax gate and on the unbalanced RL router;
- the load term of the RL objective (`load_weight`), where the router observes the window's load.

The other hyperparameters are tried for every strength, and chosen on validation by utility (for the RL
router, including the load penalty). Writes `load.json` and prints Markdown; finished trials are kept, and an
interrupted run resumes from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from parallel_trials import run_trials
from rich.console import Console

from experts import InputError, OutcomeTable, open_table
from experts.io.atomic import write_json
from router_rl import Jobs, Objective
from router_rl.methods.fit import learnable
from router_rl.methods.gates.bias_controller import rebalanced
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.reports.terminal import progress_of
from router_rl.routing import Hard, Router, load_router
from router_rl.studies.trial import Trial, TrialResult

COMPUTE_WEIGHT = 0.02
EQUAL = 0.005  # quality within this of the best unbalanced router counts as equal
SELF_BALANCING = ("deepseek_v3_gate",)
SHOWN = ("quality", "compute", "load_cv", "max_over_mean", "drops")
METHOD = "exact_pg"  # the RL method whose load weight is varied
BALANCES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # coefficients of the gates' auxiliary loss
LOAD_WEIGHTS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)  # of the RL objective
BIASES = (0.0, 0.25, 0.5, 0.75, 1.0)  # strengths of the bias controller
STRENGTHS = 2 * len(BALANCES) + len(LOAD_WEIGHTS) + 2 + len(SELF_BALANCING)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One way of balancing at one strength: means over the seeds on the test rows, and each seed's."""

    table: str
    balancer: str
    strength: float
    means: dict[str, float]
    by_seed: list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Study:
    """One table, and the trials run on it.

    Attributes:
        name: the table's name.
        table: its rows.
        folder: where finished trials are kept.
        seeds, n_trials, jobs: of every method and strength.
        on_trial: is passed the name of every finished trial.
    """

    name: str
    table: OutcomeTable
    folder: Path
    seeds: int
    n_trials: int
    jobs: Jobs
    on_trial: Callable[[str], None]

    def problem(self, load_weight: float) -> RoutingProblem:
        """The problem under a load weight; the router observes the load where it is charged."""
        objective = Objective(compute_weight=COMPUTE_WEIGHT, load_weight=load_weight)
        return RoutingProblem(self.table, objective, Hard())

    def fits(self, method: str, load_weight: float, **fixed: Any) -> list[TrialResult]:
        """A result for each seed; hyperparameters that are not fixed are chosen on validation with seed 0."""
        problem = self.problem(load_weight)
        candidates = dict.fromkeys(
            replace(each, **fixed) for each in learnable(method, problem).candidates(self.n_trials)
        )
        first = [Trial(method=method, hyperparameters=each, case=problem.case, seed=0) for each in candidates]
        best = max(self._run(problem, first), key=lambda result: result.validation_utility)
        rest = [replace(best.trial, seed=seed) for seed in range(1, self.seeds)]
        return [best, *self._run(problem, rest)]

    def _run(self, problem: RoutingProblem, trials: Sequence[Trial]) -> list[TrialResult]:
        return run_trials(
            [(trial, problem) for trial in trials],
            self.folder / "trials",
            jobs=self.jobs,
            on_trial=lambda result: self.on_trial(
                f"{self.name}: {result.trial.method}, seed {result.trial.seed}"
            ),
        )

    def point(self, balancer: str, strength: float, by_seed: Sequence[dict[str, float]]) -> Point:
        """Average over the seeds."""
        kept = [{name: means[name] for name in SHOWN} for means in by_seed]
        means = {name: float(np.mean([seed[name] for seed in kept])) for name in SHOWN}
        return Point(table=self.name, balancer=balancer, strength=strength, means=means, by_seed=kept)


def means_of(results: Sequence[TrialResult]) -> list[dict[str, float]]:
    """Means on the test rows, for each seed."""
    return [result.cases[0].test.means() for result in results]


def auxiliary(study: Study, method: str, strengths: Sequence[float]) -> list[Point]:
    """Balance by the auxiliary loss of a gate."""
    return [
        study.point(
            f"{method}, auxiliary loss",
            strength,
            means_of(study.fits(method, 0.0, balance=strength)),
        )
        for strength in strengths
    ]


def load_term(study: Study, method: str, strengths: Sequence[float]) -> list[Point]:
    """Balance by the load term of the objective."""
    return [
        study.point(
            f"{method}, load term",
            strength,
            means_of(study.fits(method, strength)),
        )
        for strength in strengths
    ]


def controlled(study: Study, method: str, strengths: Sequence[float], **fixed: Any) -> list[Point]:
    """Balance by a bias, after training without balance."""
    problem = study.problem(0.0)
    features = torch.tensor(problem.train.features)
    test = study.table.part("test")

    def means_after(router: Router) -> dict[str, float]:
        return measure(router, test, problem.objective, problem.scale).means()

    trained = [load_router(result.folder / "router") for result in study.fits(method, 0.0, **fixed)]
    return [
        study.point(
            f"{method}, bias controller",
            strength,
            [means_after(rebalanced(router, features, strength)) for router in trained],
        )
        for strength in strengths
    ]


def as_trained(study: Study, method: str) -> list[Point]:
    """A method that balances while it trains."""
    return [study.point(method, 1.0, means_of(study.fits(method, 0.0)))]


def markdown(points: Sequence[Point], seeds: int, n_trials: int) -> str:
    """The points of one table, and the lowest CV of each balancer at equal quality."""
    floor = max(point.means["quality"] for point in points if point.strength == 0.0) - EQUAL
    lines = [
        f"### {points[0].table}: balancing",
        "",
        f"Compute weight {COMPUTE_WEIGHT:g}, hard selection, windows of {Objective().window} decisions, "
        f"{n_trials} trials for every strength, mean of {seeds} seeds on test rows.",
        "",
        "| balancer | strength | quality | compute | CV | max/mean | drops at 1.25 |",
        "|---|---|---|---|---|---|---|",
    ]
    for point in points:
        value = point.means
        lines.append(
            f"| {point.balancer} | {point.strength:g} | {value['quality']:.4f} | {value['compute']:.4f} "
            f"| {value['load_cv']:.3f} | {value['max_over_mean']:.2f} | {value['drops']:.3f} |"
        )
    lines += [
        "",
        f"Lowest CV with quality of at least {floor:.4f} (the best unbalanced router's minus {EQUAL:g}):",
        "",
        "| balancer | CV | strength | quality |",
        "|---|---|---|---|",
    ]
    for balancer in dict.fromkeys(point.balancer for point in points):
        own = [point for point in points if point.balancer == balancer]
        equal = [point for point in own if point.means["quality"] >= floor]
        if equal:
            best = min(equal, key=lambda point: point.means["load_cv"])
            cv, quality = best.means["load_cv"], best.means["quality"]
            lines.append(f"| {balancer} | {cv:.3f} | {best.strength:g} | {quality:.4f} |")
        else:
            highest = max(point.means["quality"] for point in own)
            lines.append(f"| {balancer} | not reached | | at most {highest:.4f} |")
    return "\n".join([*lines, ""])


def main(
    out: Path = Path("runs/load"),
    tables: tuple[str, ...] = ("digits", "fashion-mnist"),
    seeds: int = 3,
    n_trials: int = 4,
    jobs: int = 1,
    engine: str = "local",
) -> None:
    """Measure every way of balancing on every table.

    Args:
        out: folder for finished trials and JSON.
        tables: embedded sources or Parquet paths.
        seeds: training seeds for each strength.
        n_trials: hyperparameter settings tried for each strength, chosen on validation.
        jobs: processes.
        engine: local, or ray for a Ray cluster, see docs/scale.md.
    """
    err = Console(stderr=True)
    points: list[Point] = []
    for name in tables:
        try:
            table = open_table(name)
        except InputError as error:
            err.print(f"{name}: not run: {error}")
            continue
        total = STRENGTHS * (n_trials + seeds - 1)
        done = 0
        with progress_of(f"fits of {name}", err) as progress:

            def on_trial(
                what: str, total: int = total, progress: Callable[[int, int, str], None] = progress
            ) -> None:
                nonlocal done
                done += 1
                progress(done, total, what)

            study = Study(
                name=name,
                table=table,
                folder=out / Path(name).stem,
                seeds=seeds,
                n_trials=n_trials,
                jobs=Jobs(jobs, engine),
                on_trial=on_trial,
            )
            found = [
                *auxiliary(study, "softmax_gate", BALANCES),
                *auxiliary(study, "switch_gate", BALANCES),
                *controlled(study, "softmax_gate", BIASES, balance=0.0),
                *controlled(study, METHOD, BIASES),
                *load_term(study, METHOD, LOAD_WEIGHTS),
                *(point for gate in SELF_BALANCING for point in as_trained(study, gate)),
            ]
        points += found
        write_json(out / "load.json", {"points": [asdict(point) for point in points]})
        print(markdown(found, seeds, n_trials), flush=True)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
