"""The whole benchmark of training speed in one run, so that its ratios come from one machine state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from experts import InputError, OutcomeTable, open_table

from ..methods.method import Method, Run
from ..methods.training_loop import Snapshot
from ..problems.routing.problem import RoutingProblem
from ..problems.routing.routing_options import ScorerConfig
from .bare import bare_decisions_per_second
from .goals import goals_of
from .learner_clock import decisions_per_second, seconds_to_reach, spread
from .learners import BASELINES, LEARNERS, Learner, routing_method
from .machine import machine, threads_restored
from .scaling import measure_size
from .synthetic import synthetic_table
from .transitions import CORES, transitions_row

__all__ = ["FULL", "QUICK", "Plan", "bench"]

SCHEMA_VERSION = 2
_FRACTION = 0.98  # of the way from the best single expert to the tuned exact_pg


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and how often.

    Attributes:
        tables: names of embedded sources, or `synthetic`.
        threads: numbers of torch threads; everything is measured with each.
        repeats: of every timing.
        limit: seconds that a learner may take to reach the reference; a size of the scaling table gets at
            least 60.
        validate_every: decisions between two validation measurements, where the reference is to be reached.
        n_trials: hyperparameter settings tried where something is tuned.
        throughput_divisor: throughput is timed over this many times fewer decisions.
        queries: of the synthetic table.
        sizes: (queries, experts) of the scaling table.
    """

    tables: tuple[str, ...] = ("digits", "synthetic")
    threads: tuple[int, ...] = (1, 2)
    repeats: int = 5
    limit: float = 120.0
    validate_every: int = 4_096
    n_trials: int = 4
    throughput_divisor: int = 1
    queries: int = 20_000
    sizes: tuple[tuple[int, int], ...] = tuple(
        (queries, experts) for queries in (10_000, 100_000, 1_000_000) for experts in (4, 16, 64, 256)
    )

    def __post_init__(self) -> None:
        for name in ("repeats", "limit", "validate_every", "n_trials", "throughput_divisor", "queries"):
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
    validate_every=1_024,
    n_trials=1,
    throughput_divisor=32,
    queries=2_000,
    sizes=((1_000, 4),),
)

Progress = Callable[[int, int, str], None]


def bench(plan: Plan, progress: Progress = lambda done, total, what: None) -> dict[str, Any]:
    """Time every learner on every table, the batched environments, and exact_pg on tables of growing size.

    Args:
        plan: what is measured.
        progress: is called after every part with the parts done, the number of parts, and the part's name.

    Returns:
        the measurements, as they are written to JSON.
    """
    parts = len(plan.tables) * len(plan.threads) * (2 + 2 * len(LEARNERS) * plan.repeats)
    parts += len(CORES) + len(plan.sizes)
    done = 0

    def report(what: str) -> None:
        nonlocal done
        done += 1
        progress(done, parts, what)

    with threads_restored():
        tables = [_table(name, threads, plan, report) for name in plan.tables for threads in plan.threads]
        rows = _outcome_table(plan.tables[0], plan)
        transitions: list[dict[str, Any]] = []
        for env in CORES:
            seconds = 1.0 / plan.throughput_divisor
            transitions.append(transitions_row(env, rows, repeats=plan.repeats, seconds=seconds))
            report(f"transitions of {env}")
    scaling: list[dict[str, Any]] = []
    for queries, experts in plan.sizes:
        scaling.append(asdict(measure_size(queries, experts, limit=max(plan.limit, 60.0))))
        report(f"{queries} x {experts}")
    return {
        "schema_version": SCHEMA_VERSION,
        "machine": machine(),
        "plan": asdict(plan),
        "tables": tables,
        "transitions": transitions,
        "scaling": scaling,
    }


def _table(name: str, threads: int, plan: Plan, report: Callable[[str], None]) -> dict[str, Any]:
    torch.set_num_threads(threads)
    problem = _problem(name, plan)
    label = f"{name}, {threads} thread{'s' if threads > 1 else ''}"
    exact_pg, softmax_gate = routing_method("exact_pg"), routing_method("softmax_gate")
    for learner in LEARNERS:  # warm-up: what loads at the first use is not timed
        _reach(learner, problem, -math.inf, plan, seed=0)
    _fit(exact_pg, exact_pg.configure({"epochs": 1}), problem)
    best_single = _best_single(problem)
    tuned = max(each.utility for each in _fits(exact_pg, problem, plan))
    reference = best_single + _FRACTION * (tuned - best_single)
    report(f"{label}: reference")
    throughput: dict[str, list[float]] = {name: [] for name in ("bare", *(each.name for each in LEARNERS))}
    reach: dict[str, list[float]] = {learner.name: [] for learner in LEARNERS}
    # The learners take turns within each repeat, so that a disturbance does not hit the repeats of one only.
    for seed in range(plan.repeats):
        throughput["bare"].append(
            bare_decisions_per_second(problem, 524_288 // plan.throughput_divisor, seed)
        )
        for learner in LEARNERS:
            decisions = learner.decisions // plan.throughput_divisor
            throughput[learner.name].append(decisions_per_second(learner, problem, decisions, seed))
            report(f"{label}: throughput of {learner.name}")
        for learner in LEARNERS:
            reach[learner.name].append(_reach(learner, problem, reference, plan, seed))
            report(f"{label}: {learner.name} to the reference")
    gate = sum(each.seconds for each in _fits(softmax_gate, problem, plan))
    warm_exact_pg = routing_method("warm_exact_pg")
    warm = _fit(warm_exact_pg, warm_exact_pg.hyperparameters(), problem)
    report(f"{label}: warm start")
    measured: dict[str, Any] = {
        "table": name,
        "threads": threads,
        "features": problem.new_router(0).features,
        "experts": len(problem.train.experts),
        "train": len(problem.train),
        "validation": len(problem.validation),
        "scorer": str(problem.scorer),
        "best_single": best_single,
        "tuned": tuned,
        "reference": reference,
        "throughput": [{"learner": name, **asdict(spread(values))} for name, values in throughput.items()],
        "time_to_reference": _reach_rows(reach, plan),
        "sweep": {"gate_s": gate, "warm_to_best_s": warm.to_best, "warm_s": warm.seconds},
    }
    return {**measured, "goals": [asdict(goal) for goal in goals_of(measured)]}


def _problem(name: str, plan: Plan) -> RoutingProblem:
    scorer = ScorerConfig(hidden=(64, 64)) if name == "synthetic" else ScorerConfig()
    return RoutingProblem(_outcome_table(name, plan), scorer=scorer)


def _outcome_table(name: str, plan: Plan) -> OutcomeTable:
    return synthetic_table(plan.queries, 8) if name == "synthetic" else open_table(name)


def _reach(learner: Learner, problem: RoutingProblem, reference: float, plan: Plan, seed: int) -> float:
    return seconds_to_reach(
        learner, problem, reference, validate_every=plan.validate_every, limit=plan.limit, seed=seed
    )


def _best_single(problem: RoutingProblem) -> float:
    """Validation utility of the best single expert, without the load penalty."""
    rows = problem.validation
    quality = rows.quality.mean(axis=0, dtype=float)
    compute = rows.cost.mean(axis=0, dtype=float) / problem.scale
    return float(problem.objective.utility(quality, compute, np.zeros_like(compute)).max())


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """The validation utility of one fit, its seconds, and the seconds to its best measurement."""

    utility: float
    seconds: float
    to_best: float


def _fits(method: Method, problem: RoutingProblem, plan: Plan) -> Iterable[_Fit]:
    """One fit for each hyperparameter setting tried."""
    return (_fit(method, each, problem) for each in method.candidates(plan.n_trials))


def _fit(method: Method, hyperparameters: Any, problem: RoutingProblem) -> _Fit:
    best, to_best = -math.inf, 0.0
    start = time.perf_counter()

    def callback(snapshot: Snapshot) -> None:
        nonlocal best, to_best
        if snapshot.best > best:
            best, to_best = snapshot.best, time.perf_counter() - start

    router = method.fit(problem, hyperparameters, Run(callback=callback))
    seconds = time.perf_counter() - start
    utility = problem.evaluate(router, "validation").utility.mean(dtype=float)
    return _Fit(utility=float(utility), seconds=seconds, to_best=to_best)


def _reach_rows(reach: dict[str, list[float]], plan: Plan) -> list[dict[str, Any]]:
    """Seconds to the reference of each learner, and its speedup over the faster of the two baselines.

    If no baseline reaches the reference, the speedup is a lower bound: the time limit over the learner's
    seconds. If the learner does not reach it, the speedup is None.
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
