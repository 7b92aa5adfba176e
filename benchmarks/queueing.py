"""Compare a learned policy with rules that observe the queues, on real outcomes and real arrivals.

    python benchmarks/queueing.py FOLDER --out runs/queueing

FOLDER holds the outcome tables `llmdrift_math.parquet` and `zeroeval_pool27.parquet` and the arrival traces
`trace_azure2023_conv.parquet`, `trace_azure2023_code.parquet` and `trace_mooncake_conversation.parquet`.
Service times are measured latencies (llmdrift: of the calls, with a timeout of 120 s; digits: of the
experts, on this machine) or tokens at 50 a second (zeroeval, six of its models). Prints Markdown and writes
one folder for each scenario; an interrupted run resumes.

`trace_mooncake_synthetic.parquet` is sealed (docs/benchmarks/sealed.md): with `--open_sealed true` it takes
the place of Azure's conversation trace: methods train on its first half and are tested on its last quarter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from real_tables import split_by_fold
from rich.console import Console

from envs.traces import open_arrivals
from experts import OutcomeTable, open_table
from experts.io.atomic import replacing
from experts.sources import open_source
from router_rl import Objective, QueueingProblem, compare
from router_rl.reports.markdown import markdown
from router_rl.reports.terminal import progress_of

CONV, CODE = "trace_azure2023_conv.parquet", "trace_azure2023_code.parquet"
SEALED = "trace_mooncake_synthetic.parquet"
POOL = (
    *("gpt-4o-mini-2024-07-18", "claude-3-5-sonnet-20241022", "claude-3-haiku-20240307"),
    *("gemini-1.5-flash", "Meta-Llama-3.1-8B-Instruct", "gemma-2-27b-it"),
)
SCENARIOS: dict[str, dict[str, Any]] = {
    "batching": {"arrivals": CONV, "loads": [0.8], "batch": 4, "batch_slope": 0.15},
    "classes": {
        "arrivals": CONV,
        "loads": [0.8],
        "deadlines": [1.0, 6.0],
        "values": [2.0, 0.5],
        "shares": [0.3, 0.7],
    },
    "plain": {"arrivals": CONV, "loads": [0.5, 0.8, 0.95]},
    "high_load": {"arrivals": CONV, "loads": [0.95]},
    "failures": {"arrivals": CONV, "loads": [0.8], "mean_up": 60.0, "mean_repair": 15.0},
    "bursts": {"arrivals": CODE, "loads": [0.5], "lateness_weight": 0.05, "miss_weight": 0.5},
    "budget": {"arrivals": CONV, "loads": [0.6], "compute_weight": 0.0, "budget": 0.1},
    "firm_budget": {
        "arrivals": CONV,
        "loads": [0.6],
        "compute_weight": 0.0,
        "budget": 0.1,
        "overspend_weight": 10.0,
    },
    "transfer": {"arrivals": CONV, "test_arrivals": "mooncake.parquet", "loads": [0.8]},
}
# The same options, tested on a trace that no decision of this study was based on.
SCENARIOS.update(
    {
        f"{name}_transfer": {**SCENARIOS[name], "test_arrivals": "mooncake.parquet"}
        for name in ("batching", "classes", "failures")
    }
)
STUDY = (
    *(("llmdrift", name) for name in SCENARIOS),
    *(("zeroeval", name) for name in ("batching", "classes")),
    ("digits", "failures"),
)


def main(
    data: Path,
    out: Path = Path("runs/queueing"),
    only: tuple[str, ...] = (),
    methods: tuple[str, ...] = (),
    seeds: int = 5,
    episodes: int = 192,
    open_sealed: bool = False,
) -> None:
    """Compare in each scenario.

    Args:
        data: folder of the tables and traces.
        out: folder for reports and JSON.
        only: scenarios such as llmdrift/batching; all if empty.
        methods: see `train_router.py list`; all if empty.
        seeds: training seeds for each method.
        episodes: of 256 requests each, on validation and on test.
        open_sealed: the arrivals of the sealed trace; note it in docs/benchmarks/sealed.md.
    """
    err = Console(stderr=True)
    out.mkdir(parents=True, exist_ok=True)
    _mooncake(data, out)
    for table, name in STUDY:
        label = f"{table}/{name}"
        if only and label not in only:
            continue
        options = dict(SCENARIOS[name])
        if open_sealed and options["arrivals"] == CONV:
            options["arrivals"], label = SEALED, f"{label}, sealed arrivals"
        for field in ("arrivals", "test_arrivals"):
            if field in options:
                folder = out if options[field] == "mooncake.parquet" else data
                options[field] = str(folder / options[field])
        with progress_of(f"fits of {label}", err) as progress:
            rows = OutcomeTable.read(outcome_table(table, data, out))
            objective = Objective(compute_weight=options.pop("compute_weight", 0.1))
            found = compare(
                QueueingProblem(rows, objective, **options, episodes=episodes, window=256),
                list(methods) or None,
                seeds=seeds,
                n_trials=1,
                out=out / table / (f"{name}_sealed" if open_sealed else name),
                progress=progress,
            ).results
        print(markdown(found, label), flush=True)


def outcome_table(name: str, data: Path, out: Path) -> Path:
    """The path of the table with features and service times, which is made once."""
    path = out / f"{name}.parquet"
    if not path.exists():
        TABLES[name](data).write(path)
    return path


def _llmdrift(data: Path) -> OutcomeTable:
    table = split_by_fold(OutcomeTable.read(data / "llmdrift_math.parquet"))
    assert table.latency_s is not None
    return replace(table, latency_s=np.minimum(table.latency_s, 120.0))


def zeroeval(data: Path, pool: tuple[str, ...] = POOL) -> OutcomeTable:
    """Return ZeroEval's outcomes of some models, with a split by folds.

    Args:
        data: folder of the tables.
        pool: names of the models.
    """
    table = split_by_fold(OutcomeTable.read(data / "zeroeval_pool27.parquet"))
    kept = [table.experts.index(name) for name in pool]
    assert table.tokens_out is not None
    return replace(
        table,
        experts=pool,
        quality=table.quality[:, kept],
        cost=table.cost[:, kept],
        tokens_out=table.tokens_out[:, kept],
        extra=None,
    )


def _digits(data: Path) -> OutcomeTable:
    table, source = open_table("digits"), open_source("digits")
    assert source is not None
    profiles = source.pool(0).profile(source.queries(0).inputs[:1])
    seconds = [profiles[name].latency_s for name in table.experts]
    return replace(table, latency_s=np.tile(seconds, (len(table), 1)))


TABLES: dict[str, Callable[[Path], OutcomeTable]] = {
    "llmdrift": _llmdrift,
    "zeroeval": zeroeval,
    "digits": _digits,
}


def _mooncake(data: Path, out: Path) -> None:
    """The trace whose stamps are rounded to 3 s, spread over them."""
    trace = open_arrivals(data / "trace_mooncake_conversation.parquet").jittered(3.0)
    with replacing(out / "mooncake.parquet") as temporary:
        pq.write_table(pa.table({"arrival_s": trace.arrival_s}), temporary)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
