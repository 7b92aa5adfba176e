"""Time and memory of importing, reading, training, evaluating and routing large tables, as Markdown.

    python benchmarks/large_tables.py --sizes '[[100000, 64], [1000000, 64]]' --folder runs/large

Tables are generated chunk by chunk (`large_table_stages.py`): 64 features, qualities of 0 and 1,
and 80% of the rows for training, in no order. Each stage runs in its own process with one thread. `exact_pg`
trains for one epoch, a network of 64-64. A table that is there already is used again. A query takes about 300
bytes for its features in the table, and again in the cache folder, where outcomes take 8 bytes a query and
expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jsonargparse
from large_table_stages import STAGES, StageCost, measure_stage, write_results
from markdown_tables import as_markdown
from rich.console import Console

from router_rl.bench.table_layout import TextTable


def main(
    sizes: Sequence[tuple[int, int]] = ((100_000, 64), (1_000_000, 64)),
    *,
    folder: Path = Path("runs/large"),
    stages: Sequence[str] = tuple(STAGES),
    limit: float = 3600.0,
) -> None:
    """Measure and print.

    Args:
        sizes: queries and experts of each table.
        folder: where tables are written.
        stages: names of stages; those after training read its router.
        limit: seconds of a stage.
    """
    console = Console(stderr=True)
    costs: list[StageCost] = []
    for queries, experts in sizes:
        place = folder / f"{queries}x{experts}"
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "table.parquet").exists():
            console.print(f"writing {queries:,} x {experts}")
            write_results(place / "table.parquet", queries, experts)
        for stage in stages:
            costs.append(measure_stage(stage, place, queries, experts, limit))
            console.print(costs[-1])
    print(as_markdown([layout(costs)]))


def layout(costs: Sequence[StageCost]) -> TextTable:
    """The measurements by stage, and by size within a stage."""
    rows: list[Sequence[str]] = []
    for stage in dict.fromkeys(each.stage for each in costs):
        for each in (each for each in costs if each.stage == stage):
            if each.seconds is None or each.peak_mib is None or each.anonymous_mib is None:
                numbers = ["stopped"] * 4
            else:
                micro = 1e6 * each.seconds / each.queries
                numbers = [
                    f"{each.seconds:.1f}",
                    f"{micro:.1f}",
                    f"{each.peak_mib:,.0f}",
                    f"{each.anonymous_mib:,.0f}",
                ]
            rows.append([stage, f"{each.queries:,}", str(each.experts), *numbers])
    return TextTable(
        title="Time and memory by stage",
        columns=("stage", "queries", "experts", "s", "µs/query", "peak MiB", "anonymous MiB"),
        rows=rows,
        note=(
            "Peak resident memory of the process, and of the part that no file backs. Both include Python "
            "and its libraries, about 350 and 250 MiB."
        ),
    )


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
