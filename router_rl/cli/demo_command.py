"""`demo`: the main job on the embedded default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from experts import open_table

from ..exports import export
from ..problems.objective import Objective
from ..reports.terminal import progress_of
from ..routing import load

__all__ = ["demo"]

err = Console(stderr=True)


def demo(*, out: Path = Path("demo"), seeds: int = 3, tries: int = 3, jobs: int = 2) -> dict[str, Any]:
    """Route between seven digit classifiers: pretrain them, train routers, compare, export the best.

    Args:
        out: folder for results.json, report.html, TensorBoard curves and the exported router.
        seeds: training seeds for each method.
        tries: settings tried for each method, chosen on validation.
        jobs: processes.
    """
    from ..studies.compare import compare

    err.print(
        "Seven frozen classifiers of scanned digits, each good at something: who should read which scan?"
    )
    table = open_table("digits")
    methods = ["ppo", "a2c", "exact_pg", "warm_exact_pg", "softmax_gate", "switch_gate", "ridge"]
    objectives = [Objective(compute_weight=weight) for weight in (0.02, 0.1, 0.4)]
    with progress_of("fits", err) as progress:
        results = compare(
            table,
            methods,
            objectives=objectives,
            seeds=seeds,
            tries=tries,
            out=out,
            jobs=jobs,
            command="train_router.py demo",
            progress=progress,
        )
    trained = [
        r
        for r in results["rows"]
        if (r["family"], r["compute_weight"], r["split"]) == ("rl", 0.1, "validation")
    ]
    best = max(trained, key=lambda row: row["utility"])
    parity = export(load(out / best["router"]), out / "router", table=table)
    return {**results, "router": str(out / "router"), "parity": parity.to_json(), "out": str(out)}
