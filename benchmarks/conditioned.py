"""Compare one policy for every compute weight with one policy for each weight.

    python benchmarks/conditioned.py --seeds 3

Every method has its default hyperparameters. `conditioned_pg` is fitted once for each seed, for compute
weights from c_min / 2 to 2 c_max, and fixed at each weight; the others are fitted once for each seed and
weight. Prints Markdown.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import jsonargparse
import numpy as np
from conditioned_fit import fit_for_weights

from experts import open_table
from router_rl import Objective, ScorerConfig
from router_rl.methods.fit import learnable
from router_rl.methods.method import Run
from router_rl.problems.routing.folding import for_objective
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.problems.statistics import interval
from router_rl.reports.table_format import signed
from router_rl.routing import Hard, Router

SEPARATE = ("exact_pg", "warm_exact_pg")
CONDITIONED = "conditioned_pg"


def routers_of(
    name: str, problem: RoutingProblem, objectives: Sequence[Objective], seed: int
) -> list[Router]:
    """A router for each objective; a method that amortizes is fitted once for all of them."""
    method = learnable(name, problem)
    default = method.hyperparameters()
    if not method.amortizes:
        return [method.fit(problem.with_objective(each), default, Run(seed=seed)) for each in objectives]
    weights = [each.compute_weight for each in objectives]
    router = fit_for_weights(method, problem, default, weights, Run(seed=seed))
    return [for_objective(router, each) for each in objectives]


def study(source: str, weights: Sequence[float], seeds: int, scorer: ScorerConfig) -> None:
    """Print the rows of one table: utility at each weight, paired differences, and fit seconds."""
    table = open_table(source)
    test = table.part("test")
    objectives = [Objective(compute_weight=weight) for weight in weights]
    problem = RoutingProblem(table, objectives[0], Hard(), scorer=scorer)
    utility: dict[str, list[np.ndarray]] = {}
    seconds: dict[str, float] = {}
    for name in (CONDITIONED, *SEPARATE):
        began = time.perf_counter()
        fitted = [routers_of(name, problem, objectives, seed) for seed in range(seeds)]
        seconds[name] = (time.perf_counter() - began) / seeds
        utility[name] = [
            np.stack([measure(routers[i], test, objective, problem.scale).utility for routers in fitted])
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
        tables: embedded sources or Parquet paths, separated by commas.
        weights: compute weights, separated by commas.
        seeds: training seeds.
        scorers: mlp or linear, separated by commas.
    """
    numbers = [float(weight) for weight in weights.split(",")]
    heads = " | ".join(f"c = {weight:g}" for weight in numbers)
    print(f"Test utility, mean of {seeds} seeds, default hyperparameters. In brackets: {CONDITIONED} minus")
    print("the method, paired, with its 95% CI over seeds and test queries.\n")
    print(f"| table | scorer | method | {heads} | mean | seconds per seed |")
    print("|---|---|---|" + "---|" * (len(numbers) + 2))
    for source in tables.split(","):
        for kind in scorers.split(","):
            study(source, numbers, seeds, ScorerConfig(kind="linear" if kind == "linear" else "mlp"))


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
