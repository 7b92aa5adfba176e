"""`demo`: train, compare and export routers on the embedded digits table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from experts.io.value_range import Count

from ..reports.terminal import progress_of, results_view
from .command import Command

__all__ = ["COMMAND", "demo"]

err = Console(stderr=True)


def demo(
    *, out: Path = Path("demo"), seeds: Count = 3, n_trials: Count = 3, jobs: Count = 2
) -> dict[str, Any]:
    """Route between seven digit classifiers: pretrain them, train routers, compare, and export the best.

    Args:
        out: folder for results.json, report.html, TensorBoard logs and the exported router.
        seeds: number of training seeds per method.
        n_trials: number of hyperparameter settings per method, selected on validation.
        jobs: number of processes.
    """
    from experts import open_table
    from experts.io.atomic import writable_folder

    from ..exports import export
    from ..problems.objective import Objective
    from ..problems.routing.problem import RoutingProblem
    from ..routing import load_router
    from ..studies.compare import compare

    writable_folder("out", out)
    err.print(
        "Seven frozen classifiers of scanned digits, each good at some of them: which should read which scan?"
    )
    table = open_table("digits")
    problem = RoutingProblem(table, [Objective(compute_weight=weight) for weight in (0.02, 0.1, 0.4)])
    methods = ["ppo", "exact_pg", "warm_exact_pg", "softmax_gate", "switch_gate"]
    with progress_of("trials", err) as progress:
        study = compare(
            problem,
            methods,
            seeds=seeds,
            n_trials=n_trials,
            out=out,
            jobs=jobs,
            progress=progress,
        )
    trained = [
        row
        for row in study.results["rows"]
        if (row["family"], row["compute_weight"], row["split"]) == ("rl", 0.1, "validation")
    ]
    best = max(trained, key=lambda row: row["utility"])
    router = load_router(out / best["router"])
    parity = export(router, out / "router", rows=problem)
    return {
        **study.results,
        "router": str(out / "router"),
        "parity": parity.to_json(),
        "out": str(out),
        "reused": study.reused,
    }


COMMAND = Command(run=demo, view=results_view)
