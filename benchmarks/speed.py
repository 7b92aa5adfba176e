"""How fast learners train, as ratios measured in one run: the tables of docs/RESULTS.md.

    python benchmarks/speed.py --out runs/speed

Decisions a second and seconds to a reference utility, against Stable-Baselines3 on ordinary environments
and against a bare torch loop; then one epoch of `exact_pg` on tables of growing size. Writes `speed.json`
and prints Markdown. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jsonargparse
from rich.console import Console

from experts.io.atomic import write_json
from router_rl.bench.learner_benchmark import FULL, QUICK, bench
from router_rl.bench.learner_table import markdown
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
        tables: embedded sources, or `synthetic`; null: the plan's (digits and synthetic).
        threads: of torch, each in turn; null: the plan's (1 and 2).
        repeats: of every timing; null: the plan's (5).
        limit: seconds a learner may take to the reference; null: the plan's (120).
        quick: a plan of seconds, to see that it runs.
    """
    given = {"tables": tables, "threads": threads, "repeats": repeats, "limit": limit}
    plan = replace(QUICK if quick else FULL, **{name: value for name, value in given.items() if value})
    with progress_of("timings", Console(stderr=True)) as progress:
        found = bench(plan, progress)
    write_json(out / "speed.json", found)
    print(markdown(found))


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
