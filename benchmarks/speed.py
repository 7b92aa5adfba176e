"""Speed of the training methods as ratios measured in one run: the tables of docs/benchmarks/speed.md.

    python benchmarks/speed.py --out runs/speed

Measures decisions per second, compared with Stable-Baselines3 on scalar environments and with a bare torch
loop; then one epoch of `exact_pg` on tables of growing size. Writes `speed.json` and prints Markdown. Run it
on an otherwise idle machine. `ppo_speed.py` measures times to equal utility.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jsonargparse
from markdown_tables import as_markdown
from rich.console import Console

from experts.io.atomic import write_json
from router_rl.bench.learner_benchmark import FULL, QUICK, bench
from router_rl.bench.learner_table import learner_tables
from router_rl.reports.terminal import progress_of


def main(
    out: Path = Path("runs/speed"),
    tables: tuple[str, ...] | None = None,
    threads: tuple[int, ...] | None = None,
    repeats: int | None = None,
    limit: float | None = None,
    quick: bool = False,
) -> None:
    """Measure and print.

    Args:
        out: folder for the JSON.
        tables: names of embedded sources, or `synthetic`; null: digits and synthetic.
        threads: numbers of torch threads; null: 1 and 2.
        repeats: of every timing; null: 5.
        limit: seconds that a size of the table of growing sizes may take; null: 120.
        quick: measure for seconds only, to check that it runs.
    """
    given = {"tables": tables, "threads": threads, "repeats": repeats, "limit": limit}
    plan = replace(QUICK if quick else FULL, **{name: value for name, value in given.items() if value})
    with progress_of("timings", Console(stderr=True)) as progress:
        measured = bench(plan, progress)
    write_json(out / "speed.json", measured)
    print(as_markdown(learner_tables(measured)))


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
