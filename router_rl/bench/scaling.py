"""How time and memory grow with the table: one epoch of `exact_pg`, each size in a process of its own.

    python -m router_rl.bench.scaling QUERIES EXPERTS

prints one cell as JSON. Features are memory-mapped and read batch by batch; the outcomes stand in memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from experts import OutcomeTable

from ..methods.agents import exact_pg
from ..methods.method import Run
from ..problems.objective import Objective
from ..problems.routing.problem import ScorerConfig, Task
from ..routing import Hard
from .synthetic import synthetic_table

__all__ = ["Cell", "measure_cell", "scaling_cell"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One size of table.

    Attributes:
        queries, experts: T and N; 8 of 10 rows are trained on.
        table_s: seconds to make and check the table.
        seconds: seconds of one epoch, with building the learner and measuring it twice; None: timed out.
        before_mib: resident memory before there is a table, MiB.
        peak_mib: the most resident memory until the end, MiB; pages of the mapped features that were read
            count, though the system may drop them.
    """

    queries: int
    experts: int
    table_s: float | None = None
    seconds: float | None = None
    before_mib: float | None = None
    peak_mib: float | None = None


def scaling_cell(queries: int, experts: int, limit: float) -> Cell:
    """Measure one size in a child process; a cell without numbers if it takes longer than a limit in seconds.

    Raises:
        RuntimeError: the child failed.
    """
    command = [sys.executable, "-m", "router_rl.bench.scaling", str(queries), str(experts)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return Cell(queries=queries, experts=experts)
    if done.returncode == -9:  # killed for want of memory
        return Cell(queries=queries, experts=experts)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return Cell(**json.loads(done.stdout))


def measure_cell(queries: int, experts: int) -> Cell:
    """Measure one size in this process."""
    _one_epoch(synthetic_table(100, 2))  # what torch loads at the first step is nobody's growth
    before = _peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        table = synthetic_table(queries, experts, folder=Path(folder))
        made = time.perf_counter()
        _one_epoch(table)
        done = time.perf_counter()
    return Cell(
        queries=queries,
        experts=experts,
        table_s=made - began,
        seconds=done - made,
        before_mib=before,
        peak_mib=_peak_mib(),
    )


def _one_epoch(table: OutcomeTable) -> None:
    task = Task.of(table, Objective(), Hard(), scorer=ScorerConfig(hidden=(64, 64)))
    exact_pg.fit(task, exact_pg.ExactPGSettings(epochs=1), Run())


def _peak_mib() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's maximum outlives exec, so a child would inherit its parent's
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if line is not None:
            return int(line.split()[1]) / 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(asdict(measure_cell(int(sys.argv[1]), int(sys.argv[2])))))
