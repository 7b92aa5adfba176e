"""What reinforcement learning adds to the strongest rule: every table, weight, load and budget in one table.

    python benchmarks/warm_start.py --data FOLDER --out runs/warm_start

In every study each gate and rule is tuned and fitted with every seed. `warm_exact_pg` starts from the one
with the best validation utility and replaces it only if it is better on held-out data by one standard error.
FOLDER holds the Parquet outcome tables of language models that `real_tables.py` describes. Prints Markdown
and writes `warm_start.json`; an interrupted run resumes. Without `--data` it uses the embedded tables only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jsonargparse
from real_tables import TABLES, split_by_fold
from rich.console import Console

from experts import InputError, OutcomeTable, open_table
from experts.io.atomic import write_json
from router_rl import Jobs, Objective, RoutingProblem, compare
from router_rl.reports.table_format import signed
from router_rl.reports.terminal import progress_of

GATES = ["softmax_gate", "switch_gate", "deepseek_v3_gate", "straight_through_gate", "remoe_gate", "em_gate"]
FEW = ["softmax_gate", "straight_through_gate", "em_gate"]  # on tables without class probabilities
# Under a budget every fit of a gate is a search over compute weights, so only the gates that lead elsewhere.
BUDGET_GATES = ["softmax_gate", "em_gate"]
WEIGHTS = (0.02, 0.1, 0.4)
BUDGETS = {"digits": 0.1, "fashion-mnist": 0.06}


class Study(NamedTuple):
    """One comparison on one table: the gates that take part, and what is maximised."""

    table: str
    name: str
    gates: list[str]
    objectives: list[Objective]


def studies(names: Sequence[str]) -> list[Study]:
    """The comparisons on the embedded tables and on these."""
    weighed = [Objective(compute_weight=weight) for weight in WEIGHTS]
    loaded = [Objective(compute_weight=0.1, load_weight=0.5)]
    return [
        *(
            Study(name, "weights", GATES if name in BUDGETS else FEW, weighed)
            for name in ("digits", *names, "fashion-mnist")
        ),
        *(Study(name, "load", GATES, loaded) for name in BUDGETS),
        *(Study(name, "budget", BUDGET_GATES, [Objective(budget=b)]) for name, b in BUDGETS.items()),
    ]


def main(
    out: Path = Path("runs/warm_start"),
    data: Path | None = None,
    seeds: int = 5,
    n_trials: int = 4,
    jobs: int = 2,
    engine: str = "local",
) -> None:
    """Compare on every table.

    Args:
        out: folder for reports and JSON.
        data: folder of the tables of language models; null: only the embedded ones.
        seeds: training seeds for each method.
        n_trials: hyperparameter settings tried for each method and objective, chosen on validation.
        jobs: processes.
        engine: local, or ray for a Ray cluster, see docs/scale.md.
    """
    err = Console(stderr=True)
    print(
        "| table | objective | strongest on validation | utility | warm_exact_pg | difference | "
        "95% interval | seeds that kept the start |"
    )
    print("|---|---|---|---:|---:|---:|---|---:|")
    found: dict[str, Any] = {}
    for study in studies(() if data is None else (*TABLES, "routellm_mtbench")):
        try:
            if study.table in BUDGETS:
                table = open_table(study.table)
            else:
                assert data is not None
                table = split_by_fold(OutcomeTable.read(data / f"{study.table}.parquet"))
        except InputError as error:
            err.print(f"{study.table}: not run: {error}")
            continue
        with progress_of(f"fits of {study.table}, {study.name}", err) as progress:
            results = compare(
                RoutingProblem(table, study.objectives),
                ["warm_exact_pg", *study.gates],
                seeds=seeds,
                n_trials=n_trials,
                out=out / study.table / study.name,
                jobs=Jobs(jobs, engine),
                progress=progress,
            ).results
        found[f"{study.table}, {study.name}"] = results
        for objective in study.objectives:
            print(line(study.table, results, objective), flush=True)
    write_json(out / "warm_start.json", found)


def line(name: str, results: dict[str, Any], objective: Objective) -> str:
    """One row of the table."""
    at = f"compute weight {objective.compute_weight:g}"
    if objective.budget is not None:
        at = f"budget {objective.budget:g}"
    if objective.load_weight:
        at += f", load weight {objective.load_weight:g}"
    rows = {
        row["method"]: row for row in results["summary"] if row["compute_weight"] == objective.compute_weight
    }
    warm = rows["warm_exact_pg"]
    gap = warm["paired_difference_to_best_rival"]
    own = [
        row
        for row in results["rows"]
        if row["split"] == "test"
        and row["compute_weight"] == objective.compute_weight
        and row["method"] == "warm_exact_pg"
    ]
    kept = sum(row["equals_start"] is not None for row in own)
    low, high = gap["ci95"]
    return (
        f"| {name} | {at} | {gap['method']} | {rows[gap['method']]['utility_mean']:.4f} | "
        f"{warm['utility_mean']:.4f} | {signed(gap['mean'])} | {signed(low)} to {signed(high)} | "
        f"{kept}/{len(own)} |"
    )


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
