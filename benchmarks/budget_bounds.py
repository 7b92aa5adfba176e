"""A budget over time: how far the paced rule is from two bounds, and whether a learned policy is better.

    python benchmarks/budget_bounds.py FOLDER

FOLDER holds `llmdrift_math.parquet` and `trace_azure2023_conv.parquet`. The scenario is `firm_budget` of
`benchmarks/queueing.py`, at several budgets: a unit of compute above the budget costs 10. `budget_relaxation`
knows outcomes and lets no request wait; `budget_mixture` is the best mixture of the rule at fixed compute
weights that keeps to the budget on average over all episodes. `cross_entropy` searches the prices of the
rule's index, which read the budget that is left, and `residual_ppo` corrects the rule that it finds. Prints
Markdown.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonargparse
import numpy as np
import torch
from queueing import SCENARIOS, outcome_table

from experts import OutcomeTable
from router_rl import Objective, QueueingProblem, fit
from router_rl.methods.queueing.budget_bounds import measure_mixture, measure_relaxation
from router_rl.problems.statistics import interval, paired_difference


def main(
    data: Path,
    budgets: tuple[float, ...] = (0.06, 0.1, 0.2),
    methods: tuple[str, ...] = ("cross_entropy", "residual_ppo"),
    seeds: int = 5,
    episodes: int = 96,
) -> None:
    """Measure.

    Args:
        data: folder of the table and the trace.
        budgets: mean compute per request of an episode.
        methods: compared with the paced rule.
        seeds: of the search for the rule's weights, and of the methods.
        episodes: of 256 requests each.
    """
    torch.set_num_threads(1)
    scenario = {name: value for name, value in SCENARIOS["firm_budget"].items() if name != "compute_weight"}
    scenario["arrivals"] = str(data / scenario["arrivals"])
    with TemporaryDirectory() as folder:
        rows = OutcomeTable.read(outcome_table("llmdrift", data, Path(folder)))
    print(
        "| budget | index_rule_paced | 95% CI | its compute | index_rule_late | budget_mixture "
        "| mixture minus paced | 95% CI | budget_relaxation |"
    )
    print("|---:|---:|---|---:|---:|---:|---:|---|---:|")
    compared: list[str] = []
    for budget in budgets:
        options: dict[str, Any] = {**scenario, "budget": budget, "episodes": episodes, "window": 256}
        problem = QueueingProblem(rows, Objective(compute_weight=0.0), **options)
        paced, late, mixture, compute = [], [], [], []
        for seed in range(seeds):
            measured = problem.evaluate(fit("index_rule_paced", problem, seed=seed), "test")
            paced.append(measured.utility)
            compute.append(measured.means()["compute"])
            late.append(problem.evaluate(fit("index_rule_late", problem, seed=seed), "test").utility)
            mixture.append(measure_mixture(problem, problem.case, "test", seed=seed).utility)
        own = interval(np.array(paced))
        gap = paired_difference(np.array(mixture), np.array(paced))
        relaxed = measure_relaxation(problem, problem.case, "test").utility.mean()
        print(
            f"| {budget:g} | {own.mean:.4f} | {own.low:.4f} to {own.high:.4f} | {np.mean(compute):.4f} "
            f"| {np.mean(late):.4f} | {np.mean(mixture):.4f} | {gap.mean:+.4f} "
            f"| {gap.low:+.4f} to {gap.high:+.4f} | {relaxed:.4f} |",
            flush=True,
        )
        for method in methods:
            policies = [fit(method, problem, seed=seed) for seed in range(seeds)]
            earned = np.array([problem.evaluate(policy, "test").utility for policy in policies])
            gap = paired_difference(earned, np.array(paced))
            compared.append(
                f"| {budget:g} | {method} | {earned.mean():.4f} | {gap.mean:+.4f} "
                f"| {gap.low:+.4f} to {gap.high:+.4f} |"
            )
    print("\n| budget | method | utility | minus index_rule_paced | 95% CI |\n|---:|---|---:|---:|---|")
    print("\n".join(compared))


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
