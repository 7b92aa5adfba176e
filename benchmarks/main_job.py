"""RL routers against softmax gates on the embedded tables: the tables of docs/RESULTS.md.

    python benchmarks/main_job.py --out runs/main_job

Every comparison gives each method the same rows, tries and seeds; the captions say how many. Writes
`main_job.json` beside the reports and prints Markdown. A stopped benchmark goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonargparse
from rich.console import Console

from experts import InputError, OutcomeTable
from experts.atomic import write_json
from router_rl import Objective, compare
from router_rl.evaluation.terminal import progress_of

METHODS = [
    *("ppo", "a2c", "reinforce", "router_ppo", "exact_pg", "warm_exact_pg"),
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


def main(out: Path = Path("runs/main_job"), seeds: int = 5, tries: int = 4, jobs: int = 2) -> None:
    """Run the studies.

    Args:
        out: folder for reports and JSON.
        seeds: training seeds for each method.
        tries: settings tried for each method and weight, chosen on validation.
        jobs: processes.
    """
    err = Console(stderr=True)
    found: dict[str, Any] = {}
    for name, (source, load_weight, select) in STUDIES.items():
        try:
            table = OutcomeTable.read(source)
        except InputError as error:
            err.print(f"{name}: not run: {error}")
            continue
        methods = METHODS if name != "digits" else [*METHODS, "dqn"]  # the slowest, and never the best
        folder = out / name.replace(",", "").replace(" ", "-")
        with progress_of(f"fits of {name}", err) as progress:
            found[name] = compare(
                table,
                methods,
                objectives=[Objective(compute_weight=c, load_weight=load_weight) for c in WEIGHTS],
                seeds=seeds,
                tries=tries,
                select=select,
                out=folder,
                jobs=jobs,
                command="python benchmarks/main_job.py",
                progress=progress,
            )
        print(markdown(name, found[name]), flush=True)
    write_json(out / "main_job.json", found)


def markdown(name: str, results: dict[str, Any]) -> str:
    """One comparison as a Markdown table, a row for each method and compute weight."""
    facts = results["table_facts"]
    lines = [
        f"### {name}",
        "",
        f"{facts['queries']['test']} test queries, {len(results['experts'])} experts, best single "
        f"{facts['best_single_quality']:.3f}, oracle {facts['oracle_quality']:.3f}; scorer "
        f"{results['scorer']}, {results['select']} selection, load weight {results['load_weight']:g}; "
        f"{results['tries']} tries for every method and weight, chosen on validation; "
        f"{len(results['seeds'])} seeds.",
        "",
        "| compute weight | router | kind | utility | 95% interval | minus best gate | 95% interval "
        "| quality | compute | load CV | fit s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for weight in results["compute_weights"]:
        rows = [row for row in results["summary"] if row["compute_weight"] == weight]
        for row in sorted(rows, key=lambda row: -row["utility_mean"]):
            low, high = row["utility_ci95"]
            difference = row["paired_difference_to_best_gate"]
            compared = "best gate | " if row["family"] == "gate" else " | "
            if difference is not None:
                a, b = difference["ci95"]
                compared = f"{difference['mean']:+.4f} | {a:+.4f} to {b:+.4f}"
            lines.append(
                f"| {weight:g} | {row['method']} | {row['family']} | {row['utility_mean']:.4f} "
                f"| {low:.4f} to {high:.4f} | {compared} | {row['quality_mean']:.4f} "
                f"| {row['compute_mean']:.4f} | {row['load_cv_mean']:.2f} | {row['fit_seconds_mean']:.2f} |"
            )
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in results["verdict"]), ""])


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
