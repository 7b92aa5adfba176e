"""Time and memory of one epoch of `exact_pg` by size of the outcome table; each size runs in its own process.

    python -m router_rl.bench.scaling QUERIES EXPERTS

prints one measurement as JSON. Features are memory-mapped and read batch by batch; outcomes are in memory.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from experts import OutcomeTable

from ..methods.agents import exact_pg
from ..methods.method import Run
from ..problems.routing.problem import RoutingProblem
from ..problems.routing.routing_options import ScorerConfig
from .child_process import in_child, peak_mib
from .synthetic import synthetic_table

__all__ = ["Scaling", "measure_in_process", "measure_size"]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """The measurement of one table size.

    Attributes:
        queries: T; 80% of the rows are trained on.
        experts: N.
        table_s: seconds to make and validate the table.
        seconds: seconds of one epoch, with building the learner and measuring it twice; None: it ran into
            the time limit, or out of memory.
        before_mib: peak resident memory before there is a table, MiB.
        peak_mib: peak resident memory at the end, MiB; it counts pages of the memory-mapped features, which
            the operating system may drop.
    """

    queries: int
    experts: int
    table_s: float | None = None
    seconds: float | None = None
    before_mib: float | None = None
    peak_mib: float | None = None


def measure_size(queries: int, experts: int, limit: float) -> Scaling:
    """Measure one size in a child process.

    Args:
        queries: T.
        experts: N.
        limit: seconds; a child that takes longer is stopped.

    Returns:
        the measurement, without numbers if the child ran into the limit or out of memory.

    Raises:
        RuntimeError: the child failed.
    """
    measured = in_child(["-m", "router_rl.bench.scaling", str(queries), str(experts)], limit)
    return Scaling(**(measured or {"queries": queries, "experts": experts}))


def measure_in_process(queries: int, experts: int) -> Scaling:
    """Measure one size in this process, whose memory must hold nothing else yet.

    Args:
        queries: T.
        experts: N.
    """
    _one_epoch(synthetic_table(100, 2))  # what torch loads at the first step is not counted
    before = peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        table = synthetic_table(queries, experts, folder=Path(folder))
        made = time.perf_counter()
        _one_epoch(table)
        end = time.perf_counter()
    return Scaling(
        queries=queries,
        experts=experts,
        table_s=made - start,
        seconds=end - made,
        before_mib=before,
        peak_mib=peak_mib(),
    )


def _one_epoch(table: OutcomeTable) -> None:
    problem = RoutingProblem(table, scorer=ScorerConfig(hidden=(64, 64)))
    exact_pg.fit(problem, exact_pg.ExactPGHyperparameters(epochs=1), Run())


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(asdict(measure_in_process(int(sys.argv[1]), int(sys.argv[2])))))
