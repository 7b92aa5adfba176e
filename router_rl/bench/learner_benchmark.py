"""The whole benchmark of training speed in one run, so that its ratios come from one machine state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from experts import InputError, OutcomeTable, open_table

from ..problems.routing.problem import RoutingProblem
from ..problems.routing.routing_options import ScorerConfig
from .bare import bare_decisions_per_second
from .learner_clock import decisions_per_second, spread
from .learners import LEARNERS
from .machine import machine, threads_restored
from .scaling import measure_size
from .synthetic import synthetic_table
from .transitions import CORES, transitions_row

__all__ = ["FULL", "GOAL", "QUICK", "Plan", "bench"]

SCHEMA_VERSION = 3
GOAL = 0.9  # exact_pg over the bare loop, decisions per second


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and how often.

    Attributes:
        tables: names of embedded sources, or `synthetic`.
        threads: numbers of torch threads; everything is measured with each.
        repeats: of every timing.
        pairs: timings of exact_pg, each between two of the bare loop.
        limit: seconds that a size of the scaling table may take.
        throughput_divisor: throughput is timed over this many times fewer decisions.
        queries: of the synthetic table.
        sizes: (queries, experts) of the scaling table.
    """

    tables: tuple[str, ...] = ("digits", "synthetic")
    threads: tuple[int, ...] = (1, 2)
    repeats: int = 5
    pairs: int = 15
    limit: float = 120.0
    throughput_divisor: int = 1
    queries: int = 20_000
    sizes: tuple[tuple[int, int], ...] = tuple(
        (queries, experts) for queries in (10_000, 100_000, 1_000_000) for experts in (4, 16, 64, 256)
    )

    def __post_init__(self) -> None:
        for name in ("repeats", "pairs", "limit", "throughput_divisor", "queries"):
            if getattr(self, name) <= 0:
                raise InputError(name, getattr(self, name), "not positive", "use a number above 0")
        if not self.threads or min(self.threads) < 1:
            raise InputError("threads", list(self.threads), "a number is not positive", "use 1 or more")


FULL = Plan()
QUICK = Plan(
    tables=("synthetic",),
    threads=(1,),
    repeats=1,
    pairs=1,
    limit=60.0,
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
    parts = len(plan.tables) * len(plan.threads) * (2 + len(LEARNERS) * plan.repeats)
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
        scaling.append(asdict(measure_size(queries, experts, limit=plan.limit)))
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
    for learner in LEARNERS:  # what loads at the first use is not timed
        decisions_per_second(learner, problem, learner.decisions // plan.throughput_divisor, seed=0)
    report(f"{label}: loaded")
    throughput: dict[str, list[float]] = {name: [] for name in ("bare", *(each.name for each in LEARNERS))}
    # The learners take turns within each repeat, so that a disturbance does not hit the repeats of one only.
    for seed in range(plan.repeats):
        throughput["bare"].append(
            bare_decisions_per_second(problem, 524_288 // plan.throughput_divisor, seed)
        )
        for learner in LEARNERS:
            decisions = learner.decisions // plan.throughput_divisor
            throughput[learner.name].append(decisions_per_second(learner, problem, decisions, seed))
            report(f"{label}: throughput of {learner.name}")
    ratio = spread([_over_bare(problem, plan, seed) for seed in range(plan.pairs)])
    report(f"{label}: exact_pg and the bare loop")
    return {
        "table": name,
        "threads": threads,
        "features": problem.new_router(0).features,
        "experts": len(problem.train.experts),
        "train": len(problem.train),
        "validation": len(problem.validation),
        "scorer": str(problem.scorer),
        "throughput": [{"learner": name, **asdict(spread(values))} for name, values in throughput.items()],
        "exact_pg_over_bare": {**asdict(ratio), "goal": GOAL, "met": (ratio.median or 0.0) >= GOAL},
    }


def _over_bare(problem: RoutingProblem, plan: Plan, seed: int) -> float:
    """Throughput of exact_pg over that of the bare loop, which is timed before and after it."""
    (learner,) = (each for each in LEARNERS if each.name == "exact_pg")
    decisions = 65_536 // plan.throughput_divisor
    before = bare_decisions_per_second(problem, decisions, seed)
    own = decisions_per_second(learner, problem, decisions, seed)
    return 2.0 * own / (before + bare_decisions_per_second(problem, decisions, seed))


def _problem(name: str, plan: Plan) -> RoutingProblem:
    scorer = ScorerConfig(hidden=(64, 64)) if name == "synthetic" else ScorerConfig()
    return RoutingProblem(_outcome_table(name, plan), scorer=scorer)


def _outcome_table(name: str, plan: Plan) -> OutcomeTable:
    return synthetic_table(plan.queries, 8) if name == "synthetic" else open_table(name)
