"""Time and memory of each stage of a large table: import, read, train, evaluate, route.

Each stage runs in its own process; `large_tables.py` prints them. Peak memory counts pages of memory-mapped
files, which the operating system may drop; the peak of anonymous memory does not.
"""

from __future__ import annotations

import json
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
from router_rl.bench.child_process import in_child, peak_mib, status_mib
from router_rl.bench.synthetic import class_weights
from router_rl.exports.save_policy import save_policy
from router_rl.methods.fit import fit
from router_rl.problems.objective import Objective
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.routing_options import ScorerConfig
from router_rl.routing import load_router

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
    measured = in_child([__file__, stage, str(folder), str(queries), str(experts)], limit)
    return StageCost(**(measured or {"stage": stage, "queries": queries, "experts": experts}))


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
            peak[0] = max(peak[0], _anonymous())

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
        peak_mib=peak_mib(),
        anonymous_mib=max(peak[0], _anonymous()),
    )


def _anonymous() -> float:
    return status_mib("RssAnon") or 0.0


if __name__ == "__main__":
    torch.set_num_threads(1)
    _stage, _folder, _queries, _experts = sys.argv[1:]
    print(json.dumps(asdict(measure_in_process(_stage, Path(_folder), int(_queries), int(_experts)))))
