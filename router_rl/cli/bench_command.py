"""`bench`: timings, as ratios of one run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from ..reports.terminal import progress_of
from .command import Command
from .values import integers_in

__all__ = ["COMMAND", "Subject", "bench", "bench_any_view"]

Subject = Literal["learners", "router"]

err = Console(stderr=True)


def bench(
    subject: Subject = "learners",
    *,
    out: Path | None = None,
    threads: list[int] | int | str | None = None,
    repeats: int | None = None,
    limit: float = 120.0,
    quick: bool = False,
) -> dict[str, Any]:
    """Time the learners (or the exported router) against what you would use otherwise, as ratios of one run.

    Args:
        subject: learners, against Stable-Baselines3 and a bare torch loop; or router, a gate against a bare
            linear layer with top-k and against transformers' routers.
        out: file for the JSON; null: none is kept.
        threads: of torch, each in turn, with commas; null: 1,2 for learners and 1 for a router.
        repeats: of every timing; null: 5 for learners and 31 for a router.
        limit: seconds a learner may take to the reference utility.
        quick: seconds instead of many minutes, to see that it runs; the other options are ignored.
    """
    from experts.io.atomic import write_json

    given: dict[str, Any] = (
        {} if threads is None else {"threads": tuple(integers_in("threads", threads, "1,2"))}
    )
    with progress_of("timings", err) as progress:
        if subject == "router":
            from ..bench import gates

            given |= {} if repeats is None else {"rounds": repeats}
            found = gates.bench_gates(gates.QUICK if quick else replace(gates.FULL, **given), progress)
        else:
            from ..bench.learner_benchmark import FULL, QUICK
            from ..bench.learner_benchmark import bench as bench_learners

            given |= {"limit": limit} | ({} if repeats is None else {"repeats": repeats})
            found = bench_learners(QUICK if quick else replace(FULL, **given), progress)
    if out is not None:
        write_json(out, found)
    return found


def bench_any_view(found: dict[str, Any]) -> Any:
    """The tables of whichever subject was timed."""
    if "gates" in found:
        from ..bench.gates import gates_view

        return gates_view(found)
    from ..bench.learner_table import bench_view

    return bench_view(found)


COMMAND = Command(
    run=bench,
    view=bench_any_view,
    positional=(
        ("subject", Subject, "learners, or router: a gate compared with a bare linear layer and top-k"),
    ),
    switches=(("quick", "seconds instead of many minutes, to see that it runs; other numbers are ignored"),),
)
