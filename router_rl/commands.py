"""The commands of the command line: each a function whose arguments are its options.

What a function returns is what `--json` prints; progress goes to stderr.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experts import SOURCES, DecisionLog, InputError, OutcomeTable
from experts import collect as collect_outcomes

from .evaluation.terminal import evaluation_view, facts_view, progress_of, results_view
from .exports import FORMATS
from .exports import export as export_router
from .imputation import LogConfig
from .objective import Objective
from .routing import load
from .rules import RULES
from .speed.view import bench_view
from .task import ScorerConfig

__all__ = ["COMMANDS"]

err = Console(stderr=True)


def demo(*, out: Path = Path("demo"), seeds: int = 3, tries: int = 3, jobs: int = 2) -> dict[str, Any]:
    """Route between seven digit classifiers: pretrain them, train routers, compare, export the best.

    Args:
        out: folder for results.json, report.html, TensorBoard curves and the exported router.
        seeds: training seeds for each method.
        tries: settings tried for each method, chosen on validation.
        jobs: processes.
    """
    from .evaluation.compare import compare

    err.print(
        "Seven frozen classifiers of scanned digits, each good at something: who should read which scan?"
    )
    table = OutcomeTable.read("digits")
    methods = ["ppo", "a2c", "exact_pg", "warm_exact_pg", "softmax_gate", "switch_gate", "ridge"]
    objectives = [Objective(compute_weight=weight) for weight in (0.02, 0.1, 0.4)]
    with progress_of("fits", err) as progress:
        results = compare(
            table,
            methods,
            objectives=objectives,
            seeds=seeds,
            tries=tries,
            out=out,
            jobs=jobs,
            command="train_router.py demo",
            progress=progress,
        )
    trained = [
        r
        for r in results["rows"]
        if (r["family"], r["compute_weight"], r["split"]) == ("rl", 0.1, "validation")
    ]
    best = max(trained, key=lambda row: row["utility"])
    parity = export_router(load(out / best["router"]), out / "router", table=table)
    return {**results, "router": str(out / "router"), "parity": parity.to_json(), "out": str(out)}


def collect(*, source: str, out: Path, batch_size: int = 1024, seed: int = 0) -> dict[str, Any]:
    """Pretrain a source's experts, freeze them, run each once on every query, and keep what they did.

    Args:
        source: an embedded source: digits, fashion-mnist, or fashion-mnist:FOLDER.
        out: the Parquet file to write.
        batch_size: queries run, and kept, together.
        seed: of the source's experts and conditions.
    """
    table = collect_outcomes(source, out, batch_size=batch_size, seed=seed)
    quality = table.quality.mean(axis=0, dtype=float)
    return {
        "table": str(out),
        "queries": len(table),
        "features": 0 if table.features is None else table.features.shape[1],
        "experts": dict(zip(table.experts, map(float, quality), strict=True)),
        "best_single_quality": float(quality.max()),
        "oracle_quality": float(table.quality.max(axis=1).mean(dtype=float)),
        "notes": list(table.notes),
    }


def train(
    *,
    table: str,
    out: Path,
    method: str = "ppo",
    select: str = "hard",
    k: int = 2,
    tree: dict[str, Any] | None = None,
    objective: Objective = Objective(),  # noqa: B008 (frozen, and its fields become flags)
    scorer: ScorerConfig = ScorerConfig(),  # noqa: B008
    settings: dict[str, Any] | None = None,
    observe_load: bool | None = None,
    feedback: str = "full",
    log: LogConfig = LogConfig(),  # noqa: B008
    tries: int = 1,
    seed: int = 0,
    device: str = "cpu",
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Train one router; a run that was stopped goes on where it was when the same command is given.

    Args:
        table: a Parquet file or an embedded source's name.
        out: the run folder.
        method: see `list`.
        select: selection rule, see `list`.
        k: experts a decision runs (topk) or may run (adaptive_k).
        tree: for hierarchical, such as {"general": ["a"], "coding": ["b", "c"]}; null: grown from the data.
        objective: what to maximise.
        scorer: the shape of the router's network.
        settings: values for some of the method's settings, such as --settings.learning_rate 0.01.
        observe_load: whether the router sees the window's load; null: where it is charged for.
        feedback: full, or bandit: of each training and validation query one expert's outcome is known.
        log: how that expert was chosen; read under bandit feedback.
        tries: settings tried, chosen on validation.
        seed: of everything random.
        device: such as cpu or cuda.
        allow_leakage: accept a prompt that stands in two splits; every output then says so.
    """
    from .evaluation.collapse import Reference, live
    from .methods import METHODS
    from .rules import selection
    from .runs import train_run
    from .task import Task

    rows = OutcomeTable.read(table, allow_leakage=allow_leakage)
    rule = selection(select, rows, k=k, tree=tree, feedback=feedback)
    task = Task.of(
        rows,
        objective,
        rule,
        scorer=scorer,
        observe_load=observe_load,
        device=_device(device),
        feedback=feedback,
        log=log,
    )
    reference = Reference.of(task)
    # Searched within a budget, or for every weight, what is measured meanwhile is not what will be kept.
    comparable = objective.budget is None and (method not in METHODS or METHODS[method].over is None)
    with progress_of("training", err) as progress:

        def watch(snapshot: Any) -> None:
            utility = snapshot.validation.means()["utility"]
            said = f"validation utility {utility:.4f}, best {snapshot.best:.4f}"
            trouble = live(snapshot, reference) if comparable else ""
            progress(snapshot.step, snapshot.total, f"{said}; {trouble}" if trouble else said)

        run = train_run(rows, task, method, out, seed=seed, tries=tries, settings=settings, watch=watch)
    return {"run": str(out), **run.facts}


def compare(
    *,
    table: str,
    out: Path,
    methods: list[str] | str = "ppo,a2c,softmax_gate,switch_gate,ridge",
    compute_weights: list[float] | float | str = "0.02,0.1,0.4",
    load_weight: float = 0.0,
    window: int = 256,
    budget: float | None = None,
    limit: float | None = None,
    select: str = "hard",
    k: int = 2,
    tree: dict[str, Any] | None = None,
    scorer: ScorerConfig = ScorerConfig(),  # noqa: B008
    observe_load: bool | None = None,
    feedback: str = "full",
    log: LogConfig = LogConfig(),  # noqa: B008
    seeds: int = 5,
    tries: int = 4,
    jobs: int = 1,
    device: str = "cpu",
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Compare methods on one table: same rows, same number of tries, same seeds, intervals always.

    Args:
        table: a Parquet file or an embedded source's name.
        out: folder for results.json, report.html and TensorBoard curves; a stopped comparison goes on.
        methods: names with commas, see `list`; random, best_single, zero_router and oracle are always in.
        compute_weights: numbers with commas.
        load_weight: utility per unit of load.
        window: decisions over which load is settled.
        budget: the most compute a decision may take on average, in place of the compute weights; the dearest
            expert takes 1.
        limit: the most compute an expert may take on average to be chosen at all.
        select: selection rule, see `list`.
        k: experts a decision runs (topk) or may run (adaptive_k).
        tree: for hierarchical, such as {"general": ["a"], "coding": ["b", "c"]}; null: grown from the data.
        scorer: the shape of the routers' network.
        observe_load: whether stateful learners see the window's load; null: where it is charged for.
        feedback: full, or bandit: of each training and validation query one expert's outcome is known.
        log: how that expert was chosen; read under bandit feedback.
        seeds: training seeds 0, 1, ...
        tries: settings tried for each method and weight, chosen on validation.
        jobs: processes.
        device: such as cpu or cuda.
        allow_leakage: accept a prompt that stands in two splits; every output then says so.
    """
    from .evaluation.compare import compare as compare_methods

    weights = _numbers("compute_weights", compute_weights) if budget is None else [Objective().compute_weight]
    objectives = [
        Objective(compute_weight=weight, load_weight=load_weight, window=window, budget=budget, limit=limit)
        for weight in weights
    ]
    rows = OutcomeTable.read(table, allow_leakage=allow_leakage)
    with progress_of("fits", err) as progress:
        results = compare_methods(
            rows,
            _names(methods),
            objectives=objectives,
            seeds=seeds,
            tries=tries,
            select=select,
            k=k,
            tree=tree,
            scorer=scorer,
            observe_load=observe_load,
            feedback=feedback,
            log=log,
            out=out,
            jobs=jobs,
            device=_device(device),
            command="train_router.py " + shlex.join(sys.argv[1:]),
            progress=progress,
        )
    return {**results, "out": str(out)}


def evaluate(
    run: Path,
    *,
    table: str | None = None,
    log: Path | None = None,
    split: str = "test",
    placement: list[int] | int | str | None = None,
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Measure a trained router on a table or a log, beside random, the best single expert and the oracle.

    Args:
        run: the run folder.
        table: a Parquet file or an embedded source's name, with the run's experts and features.
        log: a Parquet file of decisions (query_id, expert, propensity, quality, cost, and features where
            no table has them): IPS, SNIPS and doubly robust estimates, beside the truth where a table has it.
        split: the table's rows to measure on; a log without a table is read whole.
        placement: the device of each expert, such as 0,0,1,1: load is then reported by device too.
        allow_leakage: accept a prompt that stands in two splits; every output then says so.
    """
    from .evaluation.bounds import evaluate_run
    from .evaluation.logged import evaluate_log
    from .runs import read_run

    if table is None and log is None:
        raise InputError("table", None, "there is nothing to measure on", "give --table, --log or both")
    found = read_run(run)
    rows = None if table is None else OutcomeTable.read(table, allow_leakage=allow_leakage)
    devices = None if placement is None else _integers("placement", placement, "0,0,1,1")
    measured = {} if rows is None else evaluate_run(found, rows, split, devices)
    if log is None:
        return measured
    decisions = DecisionLog.read(log, found.router.experts)
    return evaluate_log(found, decisions, None if rows is None else rows.part(split)) | measured


def export(
    run: Path,
    *,
    out: Path,
    format: str = "safetensors",
    table: str | None = None,
    at: float | None = None,
) -> dict[str, Any]:
    """Write a trained router for inference code, checked against the trained one.

    Args:
        run: the run folder.
        out: the folder to write; an earlier export in it is replaced.
        format: safetensors or pt2.
        table: a table whose rows the parity check uses; made rows without it.
        at: the compute weight to fold a conditioned router at; without it the weight stays an input.
    """
    from .evaluation.folding import fold_for
    from .runs import read_run

    found = read_run(run)
    router = found.router
    if at is not None:
        router = fold_for(router, replace(found.objective, compute_weight=at))
    rows = None if table is None else OutcomeTable.read(table)
    parity = export_router(router, out, format=format, table=rows)
    return {"router": str(out), "format": format, **parity.to_json()}


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

    from .speed.bench import FULL, QUICK
    from .speed.bench import bench as measure_speed

    counts = tuple(_integers("threads", threads, "1,2"))
    plan = QUICK if quick else replace(FULL, threads=counts, repeats=repeats, limit=limit)
    with progress_of("timings", err) as progress:
        found = measure_speed(plan, progress)
    if out is not None:
        write_json(out, found)
    return found


def list_names() -> dict[str, Any]:
    """Print the names of methods, selection rules, environments, sources and export formats."""
    from envs import ENVS

    from .methods import METHODS, ORACLE

    return {
        "methods": [*METHODS, ORACLE],
        "selections": list(RULES),
        "envs": list(ENVS),
        "sources": list(SOURCES),
        "formats": list(FORMATS),
    }


COMMANDS: dict[str, tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], Any]]] = {
    "demo": (demo, lambda found: results_view(found)),
    "collect": (collect, lambda found: facts_view(found)),
    "train": (train, lambda found: evaluation_view(found)),
    "compare": (compare, lambda found: results_view(found)),
    "evaluate": (evaluate, lambda found: evaluation_view(found)),
    "export": (export, lambda found: facts_view(found)),
    "bench": (bench, lambda found: bench_view(found)),
    "list": (list_names, lambda found: facts_view(found)),
}


def _names(value: list[str] | str) -> list[str]:
    names = value.split(",") if isinstance(value, str) else value
    return [name.strip() for name in names if name.strip()]


def _numbers(field: str, value: list[float] | float | str) -> list[float]:
    if isinstance(value, int | float):
        return [float(value)]
    try:
        return [float(part) for part in (value.split(",") if isinstance(value, str) else value)]
    except ValueError as error:
        raise InputError(field, value, "not numbers with commas between", "write 0.02,0.1,0.4") from error


def _integers(field: str, value: list[int] | int | str, example: str) -> list[int]:
    try:
        parts = str(value).split(",") if isinstance(value, int | str) else value
        return [int(part) for part in parts]
    except ValueError as error:
        raise InputError(field, value, "not whole numbers with commas between", f"write {example}") from error


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise InputError("device", name, f"cannot be used ({reason})", "use cpu") from error
    return device
