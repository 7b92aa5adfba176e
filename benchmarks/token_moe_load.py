"""What an even load costs at token level: routers of a comparison, before and after a bias balances them.

    python benchmarks/token_moe_load.py runs/token_moe/one

The argument is the folder of a finished comparison of `token_moe` with one expert per token; run this where
that command was run. The bias of each expert, as in DeepSeek-V3, is fitted on the training text after
training. Prints Markdown: the loss, the paired difference to the routers without bias, and the coefficient of
variation of the load, the mean over layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from markdown_tables import as_markdown
from rich.console import Console

from experts.moe.token_pool import TokenPool
from router_rl import TokenMoEProblem
from router_rl.bench.table_layout import TextTable
from router_rl.exports.transformers.routers_file import read_layer_routers
from router_rl.methods.token_moe.balance import balanced_routers
from router_rl.problems.options import options_from_json
from router_rl.problems.statistics import paired_difference
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.token_measurement import measure
from router_rl.problems.token_moe.token_moe_options import TokenMoEOptions
from router_rl.routing import Router
from router_rl.studies.results_reader import read_results

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
    study: Path,
    methods: Sequence[str] = ("straight_through", "softmax_gate", "joint", "outcome_table", "reinforce"),
) -> None:
    """Balance the trained routers, and print.

    Args:
        study: folder of the comparison.
        methods: names of its methods; those that it has not are left out.
    """
    torch.set_num_threads(1)
    results = read_results(study)
    options = options_from_json(TokenMoEOptions, results["problem"]["options"])
    pool, console, rows = TokenMoEProblem(options=options).pool, Console(stderr=True), []
    folders: dict[str, list[Path]] = defaultdict(list)
    for row in results["rows"]:
        if row["split"] == "test" and row["method"] in methods:
            folders[row["method"]].append(study / row["router"])
    for name in sorted(folders, key=list(methods).index):
        fits = [trained_routers(pool, folder) for folder in folders[name]]
        trained = [measured(pool, routers) for routers in fits]
        even = [measured(pool, balanced_routers(pool, routers)) for routers in fits]
        losses, loads = zip(*trained, strict=True)
        even_losses, even_loads = zip(*even, strict=True)
        change = paired_difference(np.stack(even_losses), np.stack(losses))
        numbers = [np.mean(losses), np.mean(loads), np.mean(even_losses), np.mean(even_loads)]
        cells = [f"{value:.{digits}f}" for value, digits in zip(numbers, (4, 2, 4, 2), strict=True)]
        rows.append([name, *cells, f"{change.mean:+.4f}", f"{change.low:+.4f} to {change.high:+.4f}"])
        console.print(*rows[-1])
    note = f"Loss in nats per token on {len(pool.parts['test'])} test sequences."
    print(as_markdown([TextTable("What an even load costs", COLUMNS, rows, note)]))


def trained_routers(pool: TokenPool, folder: Path) -> LayerRouters:
    """Return the routers of a trial, with biases that can be balanced."""
    read = [each for each in read_layer_routers(folder / "routers.safetensors") if isinstance(each, Router)]
    routers = LayerRouters(pool.tail.depth, pool.tail.hidden, [each.rule for each in read], pool.tail.names)
    for scorer, each in zip(routers.scorers, read, strict=True):
        scorer.load_state_dict(each.scorer.state_dict())
    return routers


def measured(pool: TokenPool, routers: LayerRouters) -> tuple[np.ndarray, Any]:
    """Return the loss [S] of each test sequence, and the load CV."""
    found = measure(pool.tail, pool.parts["test"], routers.choose)
    return found.loss.mean(axis=1), found.load_cv()


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
