"""Expert memory: quality and utility against resident bytes, the policy search against rules and their bound.

    python benchmarks/caching.py --out runs/caching

Prints Markdown, a table for each size of GPU memory; a stopped benchmark goes on where it was. Rules are
deterministic; the search has one fit a seed.
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
    out: Path = Path("runs/caching"),
    tables: tuple[str, ...] = ("digits", "fashion-mnist"),
    resident: tuple[float, ...] = (0.3, 0.5, 0.75, 1.0),
    profile: Path | None = None,
    seeds: int = 5,
) -> None:
    """Compare on each table.

    Args:
        out: folder for reports, JSON and finished fits.
        tables: embedded sources or Parquet paths.
        resident: shares of the experts' bytes that fit in GPU memory.
        profile: YAML of the bandwidths; see `benchmarks/memory_profile.py`.
        seeds: training seeds.
    """
    torch.set_num_threads(1)
    err = Console(stderr=True)
    for table in tables:
        options = {"resident": resident, "profile": None if profile is None else str(profile)}
        name = Path(table).stem
        try:
            with progress_of(f"fits of {name}", err) as progress:
                results = compare_env(
                    "caching",
                    table=table,
                    options=options,
                    seeds=seeds,
                    tries=1,
                    out=out / name,
                    command="python benchmarks/caching.py",
                    progress=progress,
                )
        except InputError as error:
            err.print(f"{name}: not run: {error}")
            continue
        print(env_markdown(results, name), flush=True)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
