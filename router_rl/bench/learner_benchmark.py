"""Measure everything in one run, so that what is reported is ratios."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from experts import InputError, OutcomeTable, open_table

from ..methods.method import Method, Run
from ..methods.registry import METHODS
from ..methods.training_loop import Snapshot
from ..problems.objective import Objective
from ..problems.routing.problem import ScorerConfig, Task
from ..problems.routing.router_measurement import measure
from ..routing import Hard
from .bare import bare_steps_per_second
from .goals import goals_of
from .learner_clock import decisions_per_second, seconds_to_reach, spread
from .learners import BASELINES, LEARNERS, Learner
from .machine import machine, threads_kept
from .scaling import scaling_cell
from .synthetic import synthetic_table
from .transitions import CORES, transitions_row

__all__ = ["FULL", "QUICK", "Plan", "bench"]

SCHEMA_VERSION = 1
_FRACTION = 0.98  # of the way from the best single expert to the tuned exact_pg


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        tables: embedded sources, or `synthetic`.
        threads: of torch, each in turn.
        repeats: of every timing.
        limit: seconds that a learner may take to the reference, and a cell of the scaling table to its end.
        every: decisions between two measurements on the way to the reference, the same for all.
        tries: settings tried where something is tuned.
        shorter: the pace is timed over so many times fewer decisions.
        queries: of the synthetic table.
        sizes: (queries, experts) of the scaling table.
    """

    tables: tuple[str, ...] = ("digits", "synthetic")
    threads: tuple[int, ...] = (1, 2)
    repeats: int = 5
    limit: float = 120.0
    every: int = 4_096
    tries: int = 4
    shorter: int = 1
    queries: int = 20_000
    sizes: tuple[tuple[int, int], ...] = tuple(
        (queries, experts) for queries in (10_000, 100_000, 1_000_000) for experts in (4, 16, 64, 256)
    )

    def __post_init__(self) -> None:
        for name in ("repeats", "limit", "every", "tries", "shorter", "queries"):
            if getattr(self, name) <= 0:
                raise InputError(name, getattr(self, name), "not positive", "use a number above 0")
        if not self.threads or min(self.threads) < 1:
            raise InputError("threads", list(self.threads), "a number is not positive", "use 1 or more")


FULL = Plan()
QUICK = Plan(
    tables=("synthetic",),
    threads=(1,),
    repeats=1,
    limit=0.2,
    every=1_024,
    tries=1,
    shorter=32,
    queries=2_000,
    sizes=((1_000, 4),),
)

Progress = Callable[[int, int, str], None]


def bench(plan: Plan, progress: Progress = lambda done, total, what: None) -> dict[str, Any]:
    """Time every learner on every table, the batched cores, and exact_pg on tables of growing size.

    Args:
        plan: how much is measured.
        progress: is told of every finished part: done, total, what.
    """
    parts = len(plan.tables) * len(plan.threads) * (2 + 2 * len(LEARNERS) * plan.repeats)
    parts += len(CORES) + len(plan.sizes)
    done = 0

    def tell(what: str) -> None:
        nonlocal done
        done += 1
        progress(done, parts, what)

    with threads_kept():
        tables = [_table(name, threads, plan, tell) for name in plan.tables for threads in plan.threads]
        played = _rows_of(plan.tables[0], plan)
        cores: list[dict[str, Any]] = []
        for env in CORES:
            cores.append(transitions_row(env, played, repeats=plan.repeats, seconds=1.0 / plan.shorter))
            tell(f"transitions of {env}")
    scaling: list[dict[str, Any]] = []
    for queries, experts in plan.sizes:
        cell = scaling_cell(queries, experts, limit=max(plan.limit, 60.0))
        scaling.append(asdict(cell))
        tell(f"{queries} x {experts}")
    return {
        "schema_version": SCHEMA_VERSION,
        "machine": machine(),
        "plan": asdict(plan),
        "tables": tables,
        "transitions": cores,
        "scaling": scaling,
    }


def _table(name: str, threads: int, plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    torch.set_num_threads(threads)
    task = _task(name, plan)
    label = f"{name}, {threads} threads"
    for learner in LEARNERS:  # what is loaded at the first use is nobody's time
        seconds_to_reach(learner, task, -math.inf, every=plan.every, limit=plan.limit, seed=0)
    _fit(METHODS["exact_pg"], METHODS["exact_pg"].configure({"epochs": 1}), task)
    single = float(task.objective.utility(*_validation_means(task)).max())
    tuned = max(_fit(METHODS["exact_pg"], found, task).utility for found in _candidates("exact_pg", plan))
    reference = single + _FRACTION * (tuned - single)
    tell(f"{label}: reference")
    paces: dict[str, list[float]] = {name: [] for name in ("bare", *(one.name for one in LEARNERS))}
    reach: dict[str, list[float]] = {learner.name: [] for learner in LEARNERS}
    # Repeats go round the learners, so that a neighbour's burst of work does not fall on one of them.
    for seed in range(plan.repeats):
        paces["bare"].append(bare_steps_per_second(task, 524_288 // plan.shorter, seed))
        for learner in LEARNERS:
            paces[learner.name].append(_pace(learner, task, plan, seed))
            tell(f"{label}: pace of {learner.name}")
        for learner in LEARNERS:
            reach[learner.name].append(
                seconds_to_reach(learner, task, reference, every=plan.every, limit=plan.limit, seed=seed)
            )
            tell(f"{label}: {learner.name} to the reference")
    gate = sum(
        _fit(METHODS["softmax_gate"], found, task).seconds for found in _candidates("softmax_gate", plan)
    )
    warm = _fit(METHODS["warm_exact_pg"], METHODS["warm_exact_pg"].settings(), task)
    tell(f"{label}: warm start")
    found: dict[str, Any] = {
        "table": name,
        "threads": threads,
        "features": task.new_router(0).features,
        "experts": len(task.train.experts),
        "train": len(task.train),
        "validation": len(task.validation),
        "scorer": str(task.scorer),
        "best_single": single,
        "tuned": tuned,
        "reference": reference,
        "pace": [{"learner": name, **asdict(spread(values))} for name, values in paces.items()],
        "reach": _reach_rows(reach, plan),
        "sweep": {"gate_s": gate, "warm_to_best_s": warm.to_best, "warm_s": warm.seconds},
    }
    return {**found, "goals": [asdict(goal) for goal in goals_of(found)]}


def _task(name: str, plan: Plan) -> Task:
    scorer = ScorerConfig(hidden=(64, 64)) if name == "synthetic" else ScorerConfig()
    return Task.of(_rows_of(name, plan), Objective(), Hard(), scorer=scorer)


def _rows_of(name: str, plan: Plan) -> OutcomeTable:
    return synthetic_table(plan.queries, 8) if name == "synthetic" else open_table(name)


def _pace(learner: Learner, task: Task, plan: Plan, seed: int) -> float:
    return decisions_per_second(learner, task, learner.decisions // plan.shorter, seed)


def _validation_means(task: Task) -> Iterator[Any]:
    """Mean quality, compute and load [N] of each expert on the validation rows; load is not charged."""
    rows = task.validation
    yield rows.quality.mean(axis=0, dtype=float)
    yield rows.cost.mean(axis=0, dtype=float) / task.scale
    yield 0.0


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """The validation utility of one fit, its seconds, and the seconds to its best measurement."""

    utility: float
    seconds: float
    to_best: float


def _fit(method: Method, settings: Any, task: Task) -> _Fitted:
    best, to_best = -math.inf, 0.0
    began = time.perf_counter()

    def watch(snapshot: Snapshot) -> None:
        nonlocal best, to_best
        if snapshot.best > best:
            best, to_best = snapshot.best, time.perf_counter() - began

    router = method.fit(task, settings, Run(watch=watch))
    seconds = time.perf_counter() - began
    utility = measure(router, task.validation, task.objective, task.scale).utility.mean(dtype=float)
    return _Fitted(utility=float(utility), seconds=seconds, to_best=to_best)


def _candidates(name: str, plan: Plan) -> list[Any]:
    return METHODS[name].candidates(plan.tries)


def _reach_rows(reach: dict[str, list[float]], plan: Plan) -> list[dict[str, Any]]:
    """Rows of the second table; `speedup` is over the faster of the two baselines.

    Where no baseline got there it is at least what the limit gives; where the learner did not, None.
    """
    medians = {name: spread(values).median for name, values in reach.items()}
    reached = [seconds for name in BASELINES if (seconds := medians[name]) is not None]
    baseline = min(reached, default=plan.limit)
    rows: list[dict[str, Any]] = []
    for name, values in reach.items():
        own = medians[name]
        rows.append(
            {
                "learner": name,
                **asdict(spread(values)),
                "reached": sum(math.isfinite(value) for value in values),
                "speedup": None if own is None else baseline / own,
                "at_least": not reached,
            }
        )
    return rows
