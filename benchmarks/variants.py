"""Compare all methods under every selection rule: the rule x method tables of docs/benchmarks/static.md.

    python benchmarks/variants.py --out runs/variants

One compute weight. Every method gets the same rows, number of trials and seeds; a method's search space is
`Method.space` in its file. An interrupted run resumes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonargparse
from rich.console import Console

from experts import InputError, open_table
from experts.io.atomic import write_json
from router_rl import Jobs, Objective, RoutingProblem, compare
from router_rl.methods.registry import method_names
from router_rl.problems.selection_rules import RULES
from router_rl.reports.markdown import markdown
from router_rl.reports.terminal import progress_of

TABLES = ("digits", "fashion-mnist")
# Stable-Baselines3 is slow, and conditioned_pg is for several weights: `main_job.py` has these.
LEFT_OUT = ("ppo", "a2c", "dqn", "conditioned_pg")


def main(
    out: Path = Path("runs/variants"),
    compute_weight: float = 0.1,
    seeds: int = 5,
    n_trials: int = 4,
    jobs: int = 2,
    engine: str = "local",
) -> None:
    """Compare all methods under each rule on each table.

    Args:
        out: folder for reports and JSON.
        compute_weight: of the objective.
        seeds: training seeds for each method.
        n_trials: hyperparameter settings tried for each method, chosen on validation.
        jobs: processes.
        engine: local, or ray for a Ray cluster, see docs/scale.md.
    """
    err = Console(stderr=True)
    found: dict[str, dict[str, Any]] = {}
    for name in TABLES:
        try:
            table = open_table(name)
        except InputError as error:
            err.print(f"{name}: not run: {error}")
            continue
        found[name] = {}
        for rule in RULES:
            with progress_of(f"fits of {rule} on {name}", err) as progress:
                found[name][rule] = compare(
                    RoutingProblem(table, Objective(compute_weight=compute_weight), rule),
                    [method for method in method_names("routing") if method not in LEFT_OUT],
                    seeds=seeds,
                    n_trials=n_trials,
                    out=out / f"{name}-{rule}",
                    jobs=Jobs(jobs, engine),
                    progress=progress,
                ).results
            print(markdown(found[name][rule], f"{name}, {rule}"), flush=True)
    write_json(out / "variants.json", found)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
