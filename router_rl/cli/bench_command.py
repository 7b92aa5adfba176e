"""`bench`: timings, as ratios within one run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from experts import InputError
from experts.io.value_range import Count, Positive

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
    threads: list[Count] | Count | str | None = None,
    repeats: Count | None = None,
    limit: Positive | None = None,
    quick: bool = False,
) -> dict[str, Any]:
    """Time training methods, or an exported router, compared with the usual alternatives.

    Args:
        subject: learners, compared with Stable-Baselines3 and a bare torch loop; or router, a gate compared
            with a linear layer with top-k and with transformers' routers.
        out: JSON file for the results; null: none.
        threads: numbers of torch threads, comma-separated; null: 1,2 for learners and 1 for a router.
        repeats: repetitions of each timing; null: 5 for learners and 31 for a router.
        limit: maximum seconds for a size of the table of growing sizes; null: 120.
        quick: smoke test in seconds, without --threads, --repeats and --limit.
    """
    from experts.io.atomic import writable_file, write_json

    _check_used(subject, quick, threads=threads, repeats=repeats, limit=limit)
    if out is not None:
        writable_file("out", out)
    given: dict[str, Any] = (
        {} if threads is None else {"threads": tuple(integers_in("threads", threads, "1,2"))}
    )
    with progress_of("timings", err) as progress:
        if subject == "router":
            from ..bench import gates

            given |= {} if repeats is None else {"rounds": repeats}
            result = gates.bench_gates(gates.QUICK if quick else replace(gates.FULL, **given), progress)
        else:
            from ..bench.learner_benchmark import FULL, QUICK
            from ..bench.learner_benchmark import bench as bench_learners

            own = {"limit": limit, "repeats": repeats}
            given |= {name: value for name, value in own.items() if value is not None}
            result = bench_learners(QUICK if quick else replace(FULL, **given), progress)
    if out is not None:
        write_json(out, result)
    return result


def _check_used(subject: Subject, quick: bool, **given: Any) -> None:
    """Raise InputError if an option is given that the timings do not use."""
    for name, value in given.items():
        unused = "--quick" if quick else "router" if (subject, name) == ("router", "limit") else None
        if value is not None and unused is not None:
            raise InputError(name, value, f"is not used with {unused}", "leave it out")


def bench_any_view(result: dict[str, Any]) -> Any:
    """Return the tables of the timed subject."""
    if "gates" in result:
        from ..bench.gates import gates_view

        return gates_view(result)
    from ..bench.learner_table import bench_view

    return bench_view(result)


COMMAND = Command(
    run=bench,
    view=bench_any_view,
    positional=(("subject", Subject, "learners, or router: a gate compared with a linear layer and top-k"),),
    switches=(("quick", "smoke test in seconds, without --threads, --repeats and --limit"),),
)
