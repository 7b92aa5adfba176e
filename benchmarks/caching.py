"""Expert memory: quality and utility by resident bytes, for learned policies, rules and their bound.

    python benchmarks/caching.py FOLDER --out runs/caching

FOLDER holds the outcome table `llmrouter_pool9.parquet`: nine open models of 7 to 70 billion parameters, in
bfloat16, with the sizes of their model cards. `digits` is embedded; its experts get 1.4 GB each. Prints
Markdown, with a table for each size of GPU memory; an interrupted run resumes. Rules are deterministic;
learned policies have one fit for each seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonargparse
import torch
from real_tables import split_by_fold
from rich.console import Console

from experts import OutcomeTable, open_table
from router_rl import CachingProblem, Objective, compare
from router_rl.reports.markdown import markdown
from router_rl.reports.terminal import progress_of

# Gigabytes of each model's weights, by the parameters of its card at two bytes each.
POOL9 = {
    "codegemma-7b": 17.1,
    "gemma-2-9b-it": 18.5,
    "llama-3.1-8b-instruct": 16.1,
    "llama-3.1-nemotron-51b-instruct": 103.0,
    "llama-3.3-nemotron-super-49b-v1": 99.7,
    "llama3-chatqa-1.5-70b": 141.1,
    "llama3-chatqa-1.5-8b": 16.1,
    "mistral-7b-instruct-v0.3": 14.5,
    "qwen2.5-7b-instruct": 15.2,
}
STUDIES: dict[str, dict[str, Any]] = {
    "digits": {"resident_shares": (0.3, 0.5, 0.75, 1.0)},
    # A request every 2 s, and .05 of utility a second; the largest model needs 32% of all bytes.
    "llmrouter_pool9": {
        "resident_shares": (0.33, 0.5, 0.75, 1.0),
        "expert_bytes": tuple(1e9 * size for size in POOL9.values()),
        "gap": 2.0,
        "wait_weight": 0.05,
    },
}


def main(
    data: Path,
    out: Path = Path("runs/caching"),
    tables: tuple[str, ...] = tuple(STUDIES),
    methods: tuple[str, ...] = (),
    profile: Path | None = None,
    seeds: int = 5,
    episodes: int = 96,
) -> None:
    """Compare on each table.

    Args:
        data: folder of the tables.
        out: folder for reports, JSON and finished fits.
        tables: some of `STUDIES`.
        methods: see `train_router.py list`; all if empty.
        profile: YAML of the bandwidths; see `benchmarks/memory_profile.py`.
        seeds: training seeds.
        episodes: of 256 requests each, on validation and on test.
    """
    torch.set_num_threads(1)
    err = Console(stderr=True)
    for name in tables:
        options: dict[str, Any] = {
            **STUDIES[name],
            "profile": profile,
            "episodes": episodes,
        }
        with progress_of(f"fits of {name}", err) as progress:
            table = open_table(name if name == "digits" else str(_split_by_fold(name, data, out)))
            results = compare(
                CachingProblem(table, Objective(), **options),
                list(methods) or None,
                seeds=seeds,
                n_trials=1,
                out=out / name,
                progress=progress,
            ).results
        print(markdown(results, name), flush=True)


def _split_by_fold(name: str, data: Path, out: Path) -> Path:
    """The table with features of its prompts, made once."""
    path = out / f"{name}.parquet"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        table = split_by_fold(OutcomeTable.read(data / path.name))
        assert table.experts == tuple(POOL9)
        table.write(path)
    return path


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
