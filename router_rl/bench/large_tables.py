"""Time and memory of each stage of a large table: read, train, evaluate, route; each in its own process.

    python -m router_rl.bench.large_tables FOLDER QUERIES EXPERTS

prints one measurement a line as JSON. FOLDER holds the generated table, its import and the routers, and is
not removed. Peak memory counts pages of memory-mapped files, which the operating system may drop; the peak of
anonymous memory does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from experts import OutcomeTable, import_results

from ..exports.save_policy import save_policy
from ..methods.fit import fit
from ..problems.objective import Objective
from ..problems.routing.problem import RoutingProblem
from ..problems.routing.routing_options import ScorerConfig
from ..routing import load_router
from .synthetic import class_weights

__all__ = ["STAGES", "StageCost", "measure_stage", "write_results"]

FEATURES = 64
_CHUNK = 65_536
_OWN, _OTHER = 0.9, 0.4  # an expert's accuracy on its own class of queries, and on the others
_OBJECTIVE = Objective(compute_weight=0.1)


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """The measurement of one stage.

    Attributes:
        stage: its name.
        queries: T.
        experts: N.
        seconds: wall time; None: it ran into the time limit, or out of memory.
        peak_mib: peak resident memory, MiB.
        anonymous_mib: peak of the part that no file backs, sampled every 20 ms, MiB.
    """

    stage: str
    queries: int
    experts: int
    seconds: float | None = None
    peak_mib: float | None = None
    anonymous_mib: float | None = None


def write_results(path: Path, queries: int, experts: int, seed: int = 0) -> None:
    """Write wide results chunk by chunk, as `synthetic_table` makes them; splits are shuffled.

    Args:
        path: the Parquet file.
        queries: T.
        experts: N.
        seed: of everything random.
    """
    random = np.random.default_rng(seed)
    weight = class_weights(experts, FEATURES, seed)
    cost = np.linspace(0.2, 1.0, experts, dtype=np.float32)
    writer: pq.ParquetWriter | None = None
    for first in range(0, queries, _CHUNK):
        rows = min(_CHUNK, queries - first)
        x = random.standard_normal((rows, FEATURES), dtype=np.float32)
        label = (x @ weight.T).argmax(axis=1)
        accuracy = np.where(np.arange(experts) == label[:, None], np.float32(_OWN), np.float32(_OTHER))
        quality = (random.random(accuracy.shape, dtype=np.float32) < accuracy).astype(np.float32)
        split = random.choice(["train", "validation", "test"], rows, p=[0.8, 0.1, 0.1])
        columns: dict[str, Any] = {
            "query_id": pa.array([f"q{row}" for row in range(first, first + rows)]),
            "split": pa.array(split.tolist(), type=pa.string()),
            "features": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), FEATURES),
        }
        columns |= {f"quality/expert{e}": pa.array(quality[:, e].copy()) for e in range(experts)}
        columns |= {f"cost/expert{e}": pa.array(np.full(rows, cost[e])) for e in range(experts)}
        chunk = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, chunk.schema, compression="zstd")
        writer.write_table(chunk)
    if writer is not None:
        writer.close()


def _table(folder: Path) -> OutcomeTable:
    return OutcomeTable.read(folder / "table.parquet", progress=False)


def _problem(folder: Path) -> RoutingProblem:
    return RoutingProblem(_table(folder), _OBJECTIVE, scorer=ScorerConfig(hidden=(64, 64)))


def _import(folder: Path) -> None:
    import_results(folder / "table.parquet", folder / "imported.parquet", progress=False)


def _read(folder: Path) -> None:
    _table(folder)


def _train(folder: Path) -> None:
    router = fit("exact_pg", _problem(folder), hyperparameters={"epochs": 1})
    save_policy(router, folder / "router")


def _ridge(folder: Path) -> None:
    save_policy(fit("ridge", _problem(folder)), folder / "ridge")


def _evaluate(folder: Path) -> None:
    _problem(folder).evaluate(load_router(folder / "router"), "test")


def _route(folder: Path) -> None:
    router, features = load_router(folder / "router"), _table(folder).features
    assert features is not None
    with torch.inference_mode():
        for first in range(0, len(features), _CHUNK):
            router(torch.from_numpy(np.array(features[first : first + _CHUNK])))


STAGES: dict[str, Callable[[Path], None]] = {
    "import": _import,
    "read": _read,
    "read again": _read,
    "train exact_pg": _train,
    "train ridge": _ridge,
    "evaluate": _evaluate,
    "route": _route,
}


def measure_stage(stage: str, folder: Path, queries: int, experts: int, limit: float) -> StageCost:
    """Measure one stage in a child process.

    Args:
        stage: a name in `STAGES`.
        folder: with `table.parquet`; stages that follow training read its router.
        queries: T.
        experts: N.
        limit: seconds; a child that takes longer is stopped.

    Returns:
        the measurement, without numbers if the child ran into the limit or out of memory.

    Raises:
        RuntimeError: the child failed.
    """
    command = [sys.executable, "-m", "router_rl.bench.large_tables"]
    command += ["--stage", stage, str(folder), str(queries), str(experts)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return StageCost(stage=stage, queries=queries, experts=experts)
    if done.returncode == -9:  # the operating system kills a process when memory runs out
        return StageCost(stage=stage, queries=queries, experts=experts)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return StageCost(**json.loads(done.stdout.splitlines()[-1]))


def measure_in_process(stage: str, folder: Path, queries: int, experts: int) -> StageCost:
    """Measure one stage in this process, which must hold nothing else yet.

    Args:
        stage: a name in `STAGES`.
        folder: as for `measure_stage`.
        queries: T.
        experts: N.
    """
    peak, stop = [0.0], threading.Event()

    def sample() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], _status("RssAnon"))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    start = time.perf_counter()
    STAGES[stage](folder)
    seconds = time.perf_counter() - start
    stop.set()
    sampler.join()
    return StageCost(
        stage=stage,
        queries=queries,
        experts=experts,
        seconds=seconds,
        peak_mib=_status("VmHWM"),
        anonymous_mib=max(peak[0], _status("RssAnon")),
    )


def _status(name: str) -> float:
    """Return a field of /proc/self/status in MiB; 0 where there is none."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), 0.0)


def _main(words: list[str]) -> None:
    torch.set_num_threads(1)
    if words[0] == "--stage":
        _, stage, folder, queries, experts = words
        print(json.dumps(asdict(measure_in_process(stage, Path(folder), int(queries), int(experts)))))
        return
    folder, queries, experts = Path(words[0]), int(words[1]), int(words[2])
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "table.parquet").exists():
        write_results(folder / "table.parquet", queries, experts)
    for stage in STAGES:
        cost = measure_stage(stage, folder, queries, experts, limit=3600.0)
        print(json.dumps(asdict(cost)), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
