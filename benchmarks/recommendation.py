"""Is the recommendation ever significantly worse than the best method of a table?

    python benchmarks/recommendation.py FOLDER --out runs/recommendation --jobs 2
    python benchmarks/recommendation.py FOLDER --tables '["zeroeval_pool27"]' --max_quality_loss 0.02

For each real table of FOLDER: what a comparison recommends at three compute weights, and its paired
difference to the method with the highest utility on test rows, which is known only afterwards. Prints
Markdown and writes `recommendation.json`; finished trials are kept, and an interrupted run resumes. With a
limit on the loss of quality, prints what is recommended for each table over all weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse
import torch

from experts import OutcomeTable, open_table
from experts.io.atomic import write_json
from router_rl import Jobs, Objective, RoutingProblem, compare
from router_rl.studies.operating_target import Target

TABLES = (
    "routellm_gsm8k",
    "routellm_mtbench",
    "routellm_mmlu",
    "llmdrift_math",
    "zeroeval_pool27",
    "llmrouter_pool9",
)
WEIGHTS = (0.02, 0.1, 0.4)
METHODS = ("softmax_gate", "exact_pg", "priced_pg", "router_ppo", "reinforce", "ppo")


def main(
    folder: Path,
    out: Path = Path("runs/recommendation"),
    tables: Sequence[str] = TABLES,
    seeds: int = 5,
    n_trials: int = 2,
    jobs: int = 1,
    engine: str = "local",
    max_quality_loss: float | None = None,
) -> None:
    """Compare on every table and print what is recommended.

    Args:
        folder: folder of the tables, Parquet files.
        out: folder for the trials and `recommendation.json`.
        tables: names of the tables.
        seeds: number of training seeds.
        n_trials: number of hyperparameter settings for each method and weight.
        jobs: number of processes.
        engine: local, or ray for a Ray cluster, see docs/scale.md.
        max_quality_loss: limit compared with the best single expert; None recommends by utility.
    """
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if max_quality_loss is not None:
        for name in tables:
            table = replace(open_table(str(folder / f"{name}.parquet")), cost_unit="usd")
            target = Target(max_quality_loss=max_quality_loss)
            found = _recommended(table, WEIGHTS, out / name, seeds, n_trials, Jobs(jobs, engine), target)
            print(f"{name}: {found['sentence']}")
        return
    print("| table | compute weight | recommended | cost saved | best on test | difference |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in tables:
        table = replace(open_table(str(folder / f"{name}.parquet")), cost_unit="usd")
        for weight in WEIGHTS:
            found = _recommended(table, (weight,), out / name, seeds, n_trials, Jobs(jobs, engine))
            rows.append({"table": name, "compute_weight": weight, **found})
            print(_line(rows[-1]), flush=True)
    write_json(out / "recommendation.json", {"schema_version": 1, "rows": rows})
    worse = [row for row in rows if row["best_on_test"].get("ci95", [0.0, 0.0])[1] < 0.0]
    print(
        f"\n{len(rows)} recommendations, {len(worse)} significantly worse than the best method on test rows."
    )


def _recommended(
    table: OutcomeTable,
    weights: Sequence[float],
    out: Path,
    seeds: int,
    n_trials: int,
    jobs: Jobs,
    target: Target | None = None,
) -> dict[str, Any]:
    """Return the recommendation of one comparison."""
    study = compare(
        RoutingProblem(table, [Objective(compute_weight=weight) for weight in weights]),
        METHODS,
        seeds=seeds,
        n_trials=n_trials,
        jobs=jobs,
        out=out / "-".join(map(str, weights)),
        target=target,
        progress=lambda done, total, what: print(f"{done}/{total} {what}", file=sys.stderr),
    )
    return json.loads(json.dumps(study.results["recommendation"]))


def _line(row: dict[str, Any]) -> str:
    """Return one row of the Markdown table."""
    shipped = f"{row['expert']} for every query" if row["expert"] else f"`{row['method']}`"
    saved = next((each["cost_saved"] for each in row.get("comparisons", []) if each["cost_saved"]), None)
    share = "" if saved is None else "{:.0%} ({:.0%} to {:.0%})".format(saved["share"], *saved["ci95"])
    best = row["best_on_test"]
    difference = "it is the best"
    if "mean" in best:
        low, high = best["ci95"]
        difference = f"{best['mean']:+.4f} ({low:+.4f} to {high:+.4f})"
    cells = (row["table"], row["compute_weight"], shipped, share, f"`{best['method']}`", difference)
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=True)
