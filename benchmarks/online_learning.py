"""What online learners earn while they serve, beside the router that they start from.

    python benchmarks/online_learning.py FOLDER

Requests are rows of a table, drawn with replacement; the first router is trained on 300 other rows. Each way
of serving decides the same 2,000 requests and gets the outcome of its choice, as `serve` does (Decider, log,
Learner), without HTTP; learners follow the log every 50 requests. Prints Markdown: mean utility of the
choices, in quarters, over seeds; the differences have 95% t intervals over seeds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
from rich.console import Console
from scipy.stats import t
from shadow_coverage import EXPERTS, Story, of_experts

from experts import OutcomeTable
from router_rl.serving.learner import Learner
from router_rl.serving.live_routers import Live
from router_rl.serving.log_store import LogStore
from router_rl.serving.serve_options import ServeOptions

FOLLOW = 50  # requests between two looks at the log
WAYS: Mapping[str, Mapping[str, Any]] = {
    "router": {},
    "router, explore 0.1": {"explore": 0.1},
    "linucb": {"online": "linucb"},
    "thompson": {"online": "thompson"},
}


def earned(
    table: OutcomeTable, seed: int, requests: int, ways: Mapping[str, Mapping[str, Any]]
) -> list[np.ndarray]:
    """Utility [requests] of the choices of each way, for the same requests."""
    every: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as folder:
        story = Story(table, seed, Path(folder))
        for at, options in enumerate(ways.values()):
            story.store.close()
            story.store, story.rng = LogStore(f"sqlite:///{folder}/{at}.db"), np.random.default_rng([seed, 1])
            serve = ServeOptions(**options, cost_weight=story.cost_weight)
            learner = None if serve.online is None else Learner(story.store, serve)
            found: list[np.ndarray] = []
            for _ in range(requests // FOLLOW):
                if learner is not None:
                    learner.follow(story.live.router)
                found.append(story.serve(FOLLOW, serve.explore, Live(story.live.router), learner))
            every.append(np.concatenate(found))
        story.store.close()
    return every


def main(
    data: Path,
    tables: Mapping[str, tuple[str, ...]] = {"llmrouter_pool9": EXPERTS},
    seeds: int = 5,
    requests: int = 2_000,
    ways: Mapping[str, Mapping[str, Any]] = WAYS,
) -> None:
    """Print the table.

    Args:
        data: folder of the tables.
        tables: experts of each table, by file name without `.parquet`.
        seeds: how often each is played.
        requests: decided in each.
        ways: options of `serve`, by name; the first is the one that the others are compared with.
    """
    err = Console(stderr=True)
    print(f"| table | served by | {' | '.join(f'quarter {at}' for at in range(1, 5))} | against the router |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name, experts in tables.items():
        rows = of_experts(OutcomeTable.read(data / f"{name}.parquet", progress=False), experts)
        by_seed: list[list[np.ndarray]] = []
        for seed in range(seeds):
            by_seed.append(earned(rows, seed, requests, ways))
            err.print(f"{name}: {seed + 1} of {seeds}")
        router = np.stack([each[0] for each in by_seed])
        for at, way in enumerate(ways):
            found = np.stack([each[at] for each in by_seed])
            gain = (found - router).mean(axis=1)
            error = float(t.ppf(0.975, seeds - 1)) * float(gain.std(ddof=1)) / seeds**0.5
            quarters = " | ".join(f"{part.mean():.4f}" for part in np.array_split(found, 4, axis=1))
            against = "" if at == 0 else f"{gain.mean():+.4f} ± {error:.4f}"
            print(f"| `{name}` | {way} | {quarters} | {against} |", flush=True)


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=True)
