"""RL routers against gates and simple rules on outcome tables of real language models.

    python benchmarks/real_tables.py FOLDER --out runs/real_tables

FOLDER holds Parquet outcome tables with `prompt` and `fold`. Folds 0 to 2 train, 3 validates, 4 tests. Every
method has the features that a router computes from the prompt alone. Of `mmlupro_pool22`, fold 4 is sealed
(docs/benchmarks/sealed.md): folds 0 and 1 train, 2 validates and 3 tests, unless `--open_sealed true` tests
on the part of fold 4 that is reserved for static routing. Prints Markdown and writes `real_tables.json`; an
interrupted run resumes.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
from overview import overview
from rich.console import Console

from experts import InputError, OutcomeTable
from experts.io.atomic import write_json
from router_rl import Jobs, Objective, RoutingProblem, compare
from router_rl.reports.terminal import progress_of

TABLES = (
    *("zeroeval_pool27", "llmrouter_pool9", "routellm_mmlu", "routellm_gsm8k", "llmdrift_math"),
    "mmlupro_pool22",
)
SEALED = "mmlupro_pool22"
METHODS = (
    *("router_ppo", "exact_pg", "warm_exact_pg", "conditioned_pg"),
    *("softmax_gate", "straight_through_gate", "em_gate"),
)
WEIGHTS = (0.02, 0.1, 0.4)


def main(
    data: Path,
    out: Path = Path("runs/real_tables"),
    tables: tuple[str, ...] = TABLES,
    seeds: int = 5,
    n_trials: int = 4,
    jobs: int = 2,
    engine: str = "local",
    methods: tuple[str, ...] = METHODS,
    open_sealed: bool = False,
) -> None:
    """Compare on each table.

    Args:
        data: folder of the tables.
        out: folder for reports and JSON.
        tables: file names without `.parquet`.
        seeds: training seeds for each method.
        n_trials: hyperparameter settings tried for each method and weight, chosen on validation.
        jobs: processes.
        engine: local, or ray for a Ray cluster, see docs/scale.md.
        methods: learned methods; the simple rules of the problem are always compared.
        open_sealed: test on the sealed rows; note it in docs/benchmarks/sealed.md.
    """
    err = Console(stderr=True)
    found: dict[str, Any] = {}
    for name in tables:
        try:
            table = OutcomeTable.read(data / f"{name}.parquet")
            table = split_by_fold(table, sealed=name == SEALED, open_sealed=open_sealed)
        except InputError as error:
            err.print(f"{name}: not run: {error}")
            continue
        with progress_of(f"fits of {name}", err) as progress:
            problem = RoutingProblem(table, [Objective(compute_weight=weight) for weight in WEIGHTS])
            found[name] = compare(
                problem,
                list(methods),
                seeds=seeds,
                n_trials=n_trials,
                out=out / name,
                jobs=Jobs(jobs, engine),
                progress=progress,
            ).results
        print("\n".join([f"### {name}", "", *overview(found[name]), ""]), flush=True)
    write_json(out / "real_tables.json", found)


def split_by_fold(table: OutcomeTable, *, sealed: bool = False, open_sealed: bool = False) -> OutcomeTable:
    """Return the rows that may be used, split by their folds.

    Args:
        table: with prompts and folds.
        sealed: whether fold 4 is sealed.
        open_sealed: whether to test on the third of the sealed rows that is reserved for static routing.

    Raises:
        InputError: the table lacks prompts or folds.
    """
    if table.prompt is None or table.fold is None:
        raise InputError("table", table.source, "lacks prompt or fold", "use a table that has them")
    if not sealed:
        parts = ["train", "train", "train", "validation", "test"]
        kept = np.arange(len(table))
    elif open_sealed:
        parts = ["train", "train", "train", "validation", "test"]
        kept = np.flatnonzero((table.fold < 4) | (sealed_part(table.prompt) == 0))
    else:
        parts = ["train", "train", "validation", "test", ""]
        kept = np.flatnonzero(table.fold < 4)
    table = table.take(kept)
    assert table.fold is not None
    notes = tuple(note for note in table.notes if not note.startswith("split:"))
    return replace(table, split=np.array(parts)[table.fold], notes=notes)


def sealed_part(prompts: np.ndarray) -> np.ndarray:
    """Return sha1(prompt) mod 3 of each prompt, [T] int64."""
    return np.array([int(hashlib.sha1(str(prompt).encode()).hexdigest(), 16) % 3 for prompt in prompts])


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
