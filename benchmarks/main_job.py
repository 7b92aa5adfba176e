"""RL routers against softmax gates on the embedded tables: the tables of docs/benchmarks/static.md.

    python benchmarks/main_job.py --out runs/main_job

Every comparison gives each method the same rows, number of trials and seeds; the captions say how many.
Writes `main_job.json` next to the reports and prints Markdown. An interrupted run resumes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonargparse
from rich.console import Console

from experts import InputError, open_table
from experts.io.atomic import write_json
from router_rl import Jobs, Objective, RoutingProblem, compare
from router_rl.reports.markdown import markdown
from router_rl.reports.terminal import progress_of

# Stable-Baselines3 is slow: left out where load is charged; dqn runs on digits only.
SLOW = ["ppo", "a2c"]
METHODS = [
    *("reinforce", "router_ppo", "exact_pg", "warm_exact_pg", "conditioned_pg"),
    *("softmax_gate", "switch_gate", "deepseek_v3_gate", "straight_through_gate", "remoe_gate", "em_gate"),
    *("ridge", "knn"),
]
WEIGHTS = (0.02, 0.1, 0.4)

# name: (table, load weight, selection rule)
STUDIES: dict[str, tuple[str, float, str]] = {
    "digits": ("digits", 0.0, "hard"),
    "fashion-mnist": ("fashion-mnist", 0.0, "hard"),
    "digits, load charged": ("digits", 0.5, "hard"),
}


def main(
    out: Path = Path("runs/main_job"), seeds: int = 5, n_trials: int = 4, jobs: int = 2, engine: str = "local"
) -> None:
    """Run the studies.

    Args:
        out: folder for reports and JSON.
        seeds: training seeds for each method.
        n_trials: hyperparameter settings tried for each method and weight, chosen on validation.
        jobs: processes.
        engine: local, or ray for a Ray cluster, see docs/scale.md.
    """
    err = Console(stderr=True)
    found: dict[str, Any] = {}
    for name, (source, load_weight, select) in STUDIES.items():
        try:
            table = open_table(source)
        except InputError as error:
            err.print(f"{name}: not run: {error}")
            continue
        methods = [*([] if load_weight else SLOW), *METHODS]
        if name == "digits":
            methods.append("dqn")
        folder = out / name.replace(",", "").replace(" ", "-")
        with progress_of(f"fits of {name}", err) as progress:
            problem = RoutingProblem(
                table, [Objective(compute_weight=c, load_weight=load_weight) for c in WEIGHTS], select
            )
            found[name] = compare(
                problem,
                methods,
                seeds=seeds,
                n_trials=n_trials,
                out=folder,
                jobs=Jobs(jobs, engine),
                progress=progress,
            ).results
        print(markdown(found[name], name), flush=True)
    write_json(out / "main_job.json", found)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
