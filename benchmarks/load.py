"""Ways of balancing, at equal quality: the load tables of docs/RESULTS.md.

    python benchmarks/load.py --out runs/load --jobs 2

Three ways to spread work over experts, each swept over its own strength:

- an auxiliary loss while the gate trains (`softmax_gate` and `switch_gate`, coefficient `balance`);
- a bias on each logit moved against the load of the training rows, after training (strength: from the
  router's own shares, 0, to even ones, 1), on the unbalanced softmax gate and on the unbalanced RL router;
- the load term of the RL objective (`load_weight`), where the router sees the window's load.

Settings other than the strength are tried alike for every strength, and chosen on validation by utility
(the RL router's with the load it is charged for). Writes `load.json` and prints Markdown; finished fits are
kept, and a stopped benchmark goes on where it was.
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
from router_rl import METHODS, Objective
from router_rl.methods.gates.bias_controller import rebalanced
from router_rl.methods.registry import find_method
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.reports.terminal import progress_of
from router_rl.routing import Hard
from router_rl.studies.trial import Cell, CellResult, run_cell, table_digest

COMPUTE_WEIGHT = 0.02
EQUAL = 0.005  # quality within this of the best unbalanced router counts as equal
SHOWN = ("quality", "compute", "load_cv", "max_over_mean", "drops")


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
    """One table, and the fits made on it.

    Attributes:
        name: the table's name.
        table: its rows.
        folder: where finished fits are kept.
        seeds, tries, jobs: of every method and strength.
        tell: is told of every finished fit.
    """

    name: str
    table: OutcomeTable
    folder: Path
    seeds: int
    tries: int
    jobs: int
    tell: Callable[[str], None]

    def task(self, load_weight: float) -> RoutingProblem:
        """The task under a load weight; the router sees the load where it is charged for."""
        objective = Objective(compute_weight=COMPUTE_WEIGHT, load_weight=load_weight)
        return RoutingProblem(self.table, objective, Hard())

    def fits(self, method: str, load_weight: float, **fixed: Any) -> list[CellResult]:
        """A fit for each seed, with some settings fixed and the others chosen on validation with seed 0."""
        task = self.task(load_weight)
        candidates = dict.fromkeys(
            replace(found, **fixed) for found in find_method("routing", method).candidates(self.tries)
        )
        first = [
            Cell(method=method, settings=settings, objective=task.objective, seed=0)
            for settings in candidates
        ]
        best = max(self._run(task, first), key=lambda result: result.validation["utility"])
        rest = [replace(best.cell, seed=seed) for seed in range(1, self.seeds)]
        return [best, *self._run(task, rest)]

    def _run(self, task: RoutingProblem, cells: Sequence[Cell]) -> list[CellResult]:
        digest, test = table_digest(self.table), self.table.part("test")

        def one(cell: Cell) -> CellResult:
            torch.set_num_threads(1)
            return run_cell(cell, task, test, self.folder / "cells", digest=digest)

        found: list[CellResult] = []
        with joblib.parallel_config("loky", n_jobs=self.jobs, inner_max_num_threads=1):
            for result in joblib.Parallel(return_as="generator")(joblib.delayed(one)(cell) for cell in cells):
                found.append(result)
                self.tell(f"{self.name}: {result.cell.method}, seed {result.cell.seed}")
        return found

    def point(self, balancer: str, strength: float, by_seed: Sequence[dict[str, float]]) -> Point:
        """Average over the seeds."""
        kept = [{name: means[name] for name in SHOWN} for means in by_seed]
        means = {name: float(np.mean([seed[name] for seed in kept])) for name in SHOWN}
        return Point(table=self.name, balancer=balancer, strength=strength, means=means, by_seed=kept)


def auxiliary(study: Study, method: str, strengths: Sequence[float]) -> list[Point]:
    """Balance by the auxiliary loss of a gate."""
    return [
        study.point(
            f"{method}, auxiliary loss",
            strength,
            [result.test.means() for result in study.fits(method, 0.0, balance=strength)],
        )
        for strength in strengths
    ]


def load_term(study: Study, method: str, strengths: Sequence[float]) -> list[Point]:
    """Balance by the load term of the objective."""
    return [
        study.point(
            f"{method}, load term",
            strength,
            [result.test.means() for result in study.fits(method, strength)],
        )
        for strength in strengths
    ]


def controlled(study: Study, method: str, strengths: Sequence[float], **fixed: Any) -> list[Point]:
    """Balance by a bias, after training without balance."""
    task = study.task(0.0)
    features = torch.tensor(task.train.features)
    test = study.table.part("test")
    trained = [result.router() for result in study.fits(method, 0.0, **fixed)]
    return [
        study.point(
            f"{method}, bias controller",
            strength,
            [
                measure(rebalanced(router, features, strength), test, task.objective, task.scale).means()
                for router in trained
            ],
        )
        for strength in strengths
    ]


def as_trained(study: Study, method: str) -> list[Point]:
    """A method that balances while it trains, as it is."""
    return [study.point(method, 1.0, [result.test.means() for result in study.fits(method, 0.0)])]


def markdown(points: Sequence[Point], seeds: int, tries: int) -> str:
    """The points of one table, and the lowest CV of each balancer at equal quality."""
    floor = max(point.means["quality"] for point in points if point.strength == 0.0) - EQUAL
    lines = [
        f"### {points[0].table}: balancing",
        "",
        f"Compute weight {COMPUTE_WEIGHT:g}, hard selection, windows of {Objective().window} decisions, "
        f"{tries} tries for every strength, mean of {seeds} seeds on test rows.",
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
        f"Lowest CV with quality of at least {floor:.4f} (the best unbalanced router's less {EQUAL:g}):",
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
    method: str = "exact_pg",
    seeds: int = 3,
    tries: int = 4,
    jobs: int = 1,
    balances: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    load_weights: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0),
    biases: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0),
) -> None:
    """Sweep every way of balancing on every table.

    Args:
        out: folder for finished fits and JSON.
        tables: embedded sources or Parquet paths.
        method: the RL method whose load term is swept.
        seeds: training seeds for each strength.
        tries: settings tried for each strength, chosen on validation.
        jobs: processes.
        balances: coefficients of the gates' auxiliary loss; 0 among them.
        load_weights: of the RL objective; 0 among them.
        biases: strengths of the bias controller.
    """
    err = Console(stderr=True)
    if find_method(method).family != "rl":
        raise InputError("method", method, "has no load term", "use a method of family rl")
    points: list[Point] = []
    for name in tables:
        try:
            table = open_table(name)
        except InputError as error:
            err.print(f"{name}: not run: {error}")
            continue
        extra = [gate for gate in ("deepseek_v3_gate",) if gate in METHODS]
        fits = (2 * len(balances) + len(load_weights) + 2 + len(extra)) * (tries + seeds - 1)
        done = 0
        with progress_of(f"fits of {name}", err) as progress:

            def tell(
                what: str, fits: int = fits, progress: Callable[[int, int, str], None] = progress
            ) -> None:
                nonlocal done
                done += 1
                progress(done, fits, what)

            study = Study(
                name=name,
                table=table,
                folder=out / Path(name).stem,
                seeds=seeds,
                n_trials=tries,
                jobs=jobs,
                tell=tell,
            )
            found = [
                *auxiliary(study, "softmax_gate", balances),
                *auxiliary(study, "switch_gate", balances),
                *controlled(study, "softmax_gate", biases, balance=0.0),
                *controlled(study, method, biases),
                *load_term(study, method, load_weights),
                *(point for gate in extra for point in as_trained(study, gate)),
            ]
        points += found
        write_json(out / "load.json", {"points": [asdict(point) for point in points]})
        print(markdown(found, seeds, tries), flush=True)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
