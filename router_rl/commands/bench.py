"""`bench`: timings, as ratios of one run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..evaluation.terminal import progress_of
from .values import integers_in

__all__ = ["bench"]

err = Console(stderr=True)


def bench(
    *,
    out: Path | None = None,
    threads: list[int] | int | str = "1,2",
    repeats: int = 5,
    limit: float = 120.0,
    quick: bool = False,
) -> dict[str, Any]:
    """Time the learners against Stable-Baselines3 and a bare torch loop, as ratios of one run.

    Args:
        out: file for the JSON; null: none is kept.
        threads: of torch, each in turn, with commas.
        repeats: of every timing.
        limit: seconds a learner may take to the reference utility.
        quick: seconds instead of many minutes, to see that it runs; the other options are ignored.
    """
    from experts.atomic import write_json

    from ..speed.bench import FULL, QUICK
    from ..speed.bench import bench as measure_speed

    counts = tuple(integers_in("threads", threads, "1,2"))
    plan = QUICK if quick else replace(FULL, threads=counts, repeats=repeats, limit=limit)
    with progress_of("timings", err) as progress:
        found = measure_speed(plan, progress)
    if out is not None:
        write_json(out, found)
    return found
