"""Cascades: one learned policy for all compute weights against tuned cascades, routers and bounds.

    python benchmarks/cascade.py --out runs/cascade

Every table is played twice: as it is, and with the query hidden, so that only what the experts say can be
acted on (the setting of threshold cascades). All methods see the same calibrated beliefs, fitted out of fold
on training and validation rows. Prints Markdown; a stopped benchmark goes on where it was.
"""

from __future__ import annotations

from pathlib import Path

import jsonargparse
import torch
from rich.console import Console

from experts import InputError
from router_rl.decisions.compare import compare_env
from router_rl.decisions.view import env_markdown
from router_rl.evaluation.terminal import progress_of


def main(
    out: Path = Path("runs/cascade"),
    tables: tuple[str, ...] = ("digits", "fashion-mnist"),
    methods: tuple[str, ...] = (
        *("exact_pg", "fitted_q", "thresholds", "automix", "lookahead"),
        *("softmax_gate", "warm_exact_pg", "best_single", "random", "oracle"),
    ),
    weights: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4),
    views: tuple[bool, ...] = (True, False),
    seeds: int = 5,
    tries: int = 1,
) -> None:
    """Compare on each table.

    Args:
        out: folder for reports, JSON and finished fits.
        tables: embedded sources or Parquet paths, with confidences.
        methods: see `train_router.py list`.
        weights: compute weights.
        views: whether the query's features are seen; both in turn.
        seeds: training seeds for each method.
        tries: settings tried for each method that has some, chosen on validation.
    """
    torch.set_num_threads(1)
    err = Console(stderr=True)
    for table in tables:
        for features in views:
            title = Path(table).stem + ("" if features else ", the query hidden")
            try:
                with progress_of(f"fits of {title}", err) as progress:
                    results = compare_env(
                        "cascade",
                        list(methods),
                        table=table,
                        options={"features": features, "compute_weights": weights},
                        seeds=seeds,
                        tries=tries,
                        out=out / title.replace(", the query ", "-"),
                        command="python benchmarks/cascade.py",
                        progress=progress,
                    )
            except InputError as error:
                err.print(f"{title}: not run: {error}")
                continue
            print(env_markdown(results, title), flush=True)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
