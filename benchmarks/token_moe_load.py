"""What an even load costs at token level: routers as they were trained, and with a bias that balances them.

    python benchmarks/token_moe_load.py

On the tiny pool of the package, one expert per token. Each method has its default learning rate and five
seeds. The bias of each expert, as in DeepSeek-V3, is fitted on the training text after training. Prints
Markdown: the loss, the paired difference to the routers without bias, and the coefficient of variation of the
load, the mean over layers.
"""

from __future__ import annotations

from typing import Any, cast

import jsonargparse
import numpy as np
import torch
from markdown_tables import as_markdown
from rich.console import Console

from experts.moe.token_pool import TokenPool
from router_rl import TokenMoEProblem
from router_rl.bench.table_layout import TextTable
from router_rl.methods.method import Method, Run
from router_rl.methods.registry import find_method
from router_rl.methods.token_moe.balance import balanced_routers
from router_rl.problems.statistics import paired_difference
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.token_measurement import measure

COLUMNS = (
    "method",
    "loss",
    "load CV",
    "loss, balanced",
    "load CV, balanced",
    "balanced minus trained",
    "95% CI",
)


def main(
    methods: tuple[str, ...] = ("softmax_gate", "joint", "outcome_table", "reinforce"), seeds: int = 5
) -> None:
    """Train, balance, and print.

    Args:
        methods: names of methods of `token_moe`.
        seeds: training seeds.
    """
    torch.set_num_threads(1)
    problem, console, rows = TokenMoEProblem(), Console(stderr=True), []
    for name in methods:
        method = cast(Method, find_method("token_moe", name))
        fits = [
            method.fit(problem, method.hyperparameters(), Run(seed=seed)).routers for seed in range(seeds)
        ]
        trained = [measured(problem.pool, routers) for routers in fits]
        even = [measured(problem.pool, balanced_routers(problem.pool, routers)) for routers in fits]
        losses, loads = zip(*trained, strict=True)
        even_losses, even_loads = zip(*even, strict=True)
        change = paired_difference(np.stack(even_losses), np.stack(losses))
        numbers = [np.mean(losses), np.mean(loads), np.mean(even_losses), np.mean(even_loads)]
        cells = [f"{value:.{digits}f}" for value, digits in zip(numbers, (4, 2, 4, 2), strict=True)]
        rows.append([name, *cells, f"{change.mean:+.4f}", f"{change.low:+.4f} to {change.high:+.4f}"])
        console.print(*rows[-1])
    note = f"{seeds} seeds; loss in nats per token on {len(problem.pool.parts['test'])} test sequences."
    print(as_markdown([TextTable("What an even load costs", COLUMNS, rows, note)]))


def measured(pool: TokenPool, routers: LayerRouters) -> tuple[np.ndarray, Any]:
    """Return the loss [S] of each test sequence, and the load CV."""
    found = measure(pool.tail, pool.parts["test"], routers.choose)
    return found.loss.mean(axis=1), found.load_cv()


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
