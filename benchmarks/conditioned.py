"""One policy for every compute weight against a policy for each: what the convenience costs.

    python benchmarks/conditioned.py --seeds 3

Every method has its default settings. `conditioned_pg` is fitted once a seed over [c_min / 2, 2 c_max] and
folded at each weight; the others are fitted once a seed and weight. Prints Markdown.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import jsonargparse
import numpy as np

from experts import open_table
from router_rl import Objective, ScorerConfig
from router_rl.methods.method import Run
from router_rl.methods.registry import find_method
from router_rl.problems.routing.folding import for_objective
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.problems.statistics import interval
from router_rl.reports.table_format import signed
from router_rl.routing import Hard, Router

SEPARATE = ("exact_pg", "warm_exact_pg")
CONDITIONED = "conditioned_pg"


def routers_of(name: str, task: RoutingProblem, objectives: Sequence[Objective], seed: int) -> list[Router]:
    """A plain router for each objective; one fit for all of them where the method can."""
    method = find_method(name)
    settings = method.settings()
    if method.over is None:
        return [method.fit(task.with_objective(each), settings, Run(seed=seed)) for each in objectives]
    router = method.fit(task, method.over(settings, objectives), Run(seed=seed))
    return [for_objective(router, each) for each in objectives]


def study(source: str, weights: Sequence[float], seeds: int, scorer: ScorerConfig) -> None:
    """Print one table's rows: utility at each weight, the paired difference, and the seconds."""
    table = open_table(source)
    test = table.part("test")
    objectives = [Objective(compute_weight=weight) for weight in weights]
    task = RoutingProblem(table, objectives[0], Hard(), scorer=scorer)
    utility: dict[str, list[np.ndarray]] = {}
    seconds: dict[str, float] = {}
    for name in (CONDITIONED, *SEPARATE):
        began = time.perf_counter()
        fitted = [routers_of(name, task, objectives, seed) for seed in range(seeds)]
        seconds[name] = (time.perf_counter() - began) / seeds
        utility[name] = [
            np.stack([measure(routers[i], test, objective, task.scale).utility for routers in fitted])
            for i, objective in enumerate(objectives)
        ]
    for name, found in utility.items():
        cells = [f"{values.mean(dtype=float):.4f}" for values in found]
        if name != CONDITIONED:
            for index, values in enumerate(found):
                gap = interval(utility[CONDITIONED][index].astype(float) - values)
                cells[index] += f" ({signed(gap.mean)}, {signed(gap.low)} to {signed(gap.high)})"
        mean = np.mean([values.mean(dtype=float) for values in found])
        print(f"| {source} | {scorer} | {name} | {' | '.join(cells)} | {mean:.4f} | {seconds[name]:.1f} |")


def main(
    tables: str = "digits,fashion-mnist",
    weights: str = "0.02,0.1,0.4",
    seeds: int = 3,
    scorers: str = "mlp,linear",
) -> None:
    """Compare and print.

    Args:
        tables: embedded sources or Parquet paths, with commas.
        weights: compute weights, with commas.
        seeds: training seeds.
        scorers: mlp or linear, with commas.
    """
    numbers = [float(weight) for weight in weights.split(",")]
    heads = " | ".join(f"c = {weight:g}" for weight in numbers)
    print(
        f"Test utility, mean of {seeds} seeds, default settings. In brackets: {CONDITIONED} less the method,"
    )
    print("paired, with its 95% interval over seeds and test queries.\n")
    print(f"| table | scorer | method | {heads} | mean | seconds a seed |")
    print("|---|---|---|" + "---|" * (len(numbers) + 2))
    for source in tables.split(","):
        for kind in scorers.split(","):
            study(source, numbers, seeds, ScorerConfig(kind="linear" if kind == "linear" else "mlp"))


if __name__ == "__main__":
    jsonargparse.CLI(main)
