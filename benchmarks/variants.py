"""Every rule learned by every method that can learn it: the rule x method tables of docs/RESULTS.md.

    python benchmarks/variants.py --out runs/variants

One compute weight. Every method gets the same rows, tries and seeds; what a method tries stands in
`router_rl/methods/registry.py`, beside its name. A stopped benchmark goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonargparse
from rich.console import Console

from experts import InputError, open_table
from experts.io.atomic import write_json
from router_rl import METHODS, Objective, compare
from router_rl.problems.selection_rules import RULES
from router_rl.reports.markdown import markdown
from router_rl.reports.terminal import progress_of

TABLES = ("digits", "fashion-mnist")
# Stable-Baselines3 is slow, and one weight is nothing to condition on: `main_job.py` has these.
LEFT_OUT = ("ppo", "a2c", "dqn", "conditioned_pg")


def main(
    out: Path = Path("runs/variants"),
    compute_weight: float = 0.1,
    seeds: int = 5,
    tries: int = 4,
    jobs: int = 2,
) -> None:
    """Compare all methods under each rule on each table.

    Args:
        out: folder for reports and JSON.
        compute_weight: of the objective.
        seeds: training seeds for each method.
        tries: settings tried for each method, chosen on validation.
        jobs: processes.
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
                    table,
                    [method for method in METHODS if method not in LEFT_OUT],
                    objectives=[Objective(compute_weight=compute_weight)],
                    seeds=seeds,
                    tries=tries,
                    select=rule,
                    out=out / f"{name}-{rule}",
                    jobs=jobs,
                    command="python benchmarks/variants.py",
                    progress=progress,
                )
            print(markdown(found[name][rule], f"{name}, {rule}"), flush=True)
    write_json(out / "variants.json", found)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
