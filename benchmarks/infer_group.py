"""What a router gains that infers the group of a prompt, or is given it.

    python benchmarks/infer_group.py FOLDER
    python benchmarks/infer_group.py FOLDER --tables llmrouter_pool9,zeroeval_pool27

FOLDER holds Parquet outcome tables with `prompt`, `group` and `fold`. Folds 0 and 1 train, 2 validates and 3
measures; fold 4 is not read. Each method is fitted with its default hyperparameters and seed 0 at compute
weights 0.02, 0.1 and 0.4 (`priced_pg` once for all). A cell is the mean difference of utility to the same
method on the prompt alone, over the weights, and its standard error over queries. Prints Markdown.
"""

from __future__ import annotations

from pathlib import Path

import jsonargparse
import numpy as np
from replay import by_fold

from experts import OutcomeTable
from router_rl import Objective, RoutingProblem, fit
from router_rl.problems.feature_config import FeatureConfig

__all__ = ["utilities"]

METHODS = ("ridge", "knn", "softmax_gate", "exact_pg", "priced_pg")
TABLES = "llmdrift_math,llmrouter_pool9,mmlupro_pool22,routellm_mmlu,routellm_mtbench,zeroeval_pool27"
WEIGHTS = (0.02, 0.1, 0.4)
CONFIGS = {
    "prompt": FeatureConfig(),
    "inferred group": FeatureConfig(infer_group=True),
    "group given": FeatureConfig(group=True),
}


def utilities(table: OutcomeTable, config: FeatureConfig) -> dict[str, np.ndarray]:
    """Return the utility [T] of each test row by method, as a mean over the compute weights.

    Args:
        table: with a split.
        config: the features.
    """
    problem = RoutingProblem(table, [Objective(compute_weight=each) for each in WEIGHTS], features=config)
    means: dict[str, np.ndarray] = {}
    for method in METHODS:
        every = fit(method, problem, seed=0) if method == "priced_pg" else None
        measured = [
            problem.evaluate(fit(method, problem.at(case), seed=0) if every is None else every, "test", case)
            for case in problem.cases
        ]
        means[method] = np.mean([each.utility for each in measured], axis=0)
    return means


def main(folder: Path, tables: str = TABLES) -> None:
    """Print one line per table and configuration.

    Args:
        folder: folder of the tables.
        tables: comma-separated, without `.parquet`.
    """
    print(f"| table | features | {' | '.join(METHODS)} |\n|---|---|{'---:|' * len(METHODS)}")
    for name in tables.split(","):
        table = by_fold(OutcomeTable.read(folder / f"{name}.parquet"))
        base = utilities(table, CONFIGS["prompt"])
        print(
            f"| `{name}` | prompt | {' | '.join(f'{each.mean():.4f}' for each in base.values())} |",
            flush=True,
        )
        for label, config in list(CONFIGS.items())[1:]:
            gains = {method: one - base[method] for method, one in utilities(table, config).items()}
            cells = [f"{each.mean():+.4f} ± {each.std() / len(each) ** 0.5:.4f}" for each in gains.values()]
            print(f"| `{name}` | {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=True)
