"""Quality within a budget, for each way of finding the Lagrange multiplier (PID, lookup, bisection).

    python benchmarks/budget.py --seeds 5

Every method has its default hyperparameters and ends with the same calibration on validation rows.
`softmax_gate` and `ridge` are fitted up to eight times each, at compute weights found by bisection. Prints
Markdown.
"""

from __future__ import annotations

import time

import jsonargparse
import numpy as np

from experts import open_table
from router_rl import Objective, fit
from router_rl.methods.baselines.oracle import measure_oracle
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.problems.statistics import interval
from router_rl.reports.table_format import signed
from router_rl.routing import Hard
from router_rl.studies.results import BUDGET_TOLERANCE

METHODS = ("warm_exact_pg", "conditioned_pg", "softmax_gate", "ridge", "best_single", "zero_router")
RIVAL = "softmax_gate"
# Fractions of the most expensive expert's cost. The cheap specialists cost .19 for digits and .06 for
# Fashion-MNIST, the smallest networks .04 and .02.
BUDGETS = {"digits": (0.06, 0.1, 0.2, 0.4), "fashion-mnist": (0.03, 0.06, 0.1, 0.2, 0.4)}


def study(source: str, budget: float, seeds: int) -> None:
    """Print the rows of one budget."""
    table = open_table(source)
    test, objective = table.part("test"), Objective(budget=budget)
    scale = RoutingProblem(table, objective, Hard()).scale
    quality: dict[str, np.ndarray] = {}
    compute: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    for name in METHODS:
        began = time.perf_counter()
        routers = [fit(name, RoutingProblem(table, objective), seed=seed) for seed in range(seeds)]
        seconds[name] = (time.perf_counter() - began) / seeds
        found = [measure(r, test, objective, scale, seed=seed) for seed, r in enumerate(routers)]
        quality[name] = np.stack([each.quality for each in found]).astype(float)
        compute[name] = np.array([each.means()["compute"] for each in found])
    for name in METHODS:
        gap = interval(quality[name] - quality[RIVAL])
        against = "" if name == RIVAL else f"{signed(gap.mean)} ({signed(gap.low)} to {signed(gap.high)})"
        met = int((compute[name] <= BUDGET_TOLERANCE * budget).sum())
        print(
            f"| {source} | {budget:g} | {name} | {quality[name].mean():.4f} | {against} | "
            f"{compute[name].mean():.4f} | {met}/{seeds} | {seconds[name]:.1f} |",
            flush=True,
        )
    bound = measure_oracle(test, objective, scale, [1]).means()
    print(f"| {source} | {budget:g} | oracle | {bound['quality']:.4f} | | {bound['compute']:.4f} | | |")


def main(tables: str = "digits,fashion-mnist", budgets: str | None = None, seeds: int = 5) -> None:
    """Compare and print.

    Args:
        tables: embedded sources, separated by commas.
        budgets: mean compute per decision, separated by commas; null: each table's own list.
        seeds: training seeds.
    """
    print(
        f"Test quality within a budget of mean compute, mean of {seeds} seeds, default hyperparameters. The"
    )
    print(f"difference to {RIVAL} is paired, with its 95% CI. met: within 2% of the budget on test rows.\n")
    print(f"| table | budget | method | quality | to {RIVAL} | compute | met | seconds per seed |")
    print("|---|---|---|---|---|---|---|---|")
    for source in tables.split(","):
        chosen = BUDGETS.get(source, (0.1, 0.2, 0.4)) if budgets is None else map(float, budgets.split(","))
        for budget in chosen:
            study(source, budget, seeds)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
