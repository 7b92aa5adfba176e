"""`compare`: compare methods on one problem."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from experts import InputError

from ..problems.registry import find_problem
from ..reports.terminal import progress_of, results_view
from ..studies.compare import compare as compare_methods
from .command import Command
from .problem_options import ComparedObjective, build_problem, compare_groups
from .values import names_in

__all__ = ["COMMAND", "compare"]

err = Console(stderr=True)

_METHODS = {"routing": "ppo,a2c,softmax_gate,switch_gate,ridge"}


def compare(
    *,
    table: str | None = None,
    out: Path,
    env: str = "routing",
    problem: Any,
    objective: ComparedObjective,
    methods: list[str] | str | None = None,
    compute_weights: list[float] | float | str | None = None,
    seeds: int = 5,
    n_trials: int = 4,
    jobs: int = 1,
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Compare methods on one problem: same data, trials and seeds for all, with confidence intervals.

    Args:
        table: a Parquet file or the name of a source, see `list`.
        out: folder for results.json, report.html and TensorBoard logs; an interrupted comparison resumes from
            it.
        env: the problem, see `list`.
        problem: options of the problem.
        objective: the objective.
        methods: comma-separated names, see `list`; null: a selection for routing, else all. Bounds and
            constant baselines are always included.
        compute_weights: comma-separated numbers, the same as --objective.compute-weight.
        seeds: number of training seeds (0, 1, ...).
        n_trials: number of hyperparameter settings per method and case, selected on validation.
        jobs: number of processes.
        allow_leakage: accept prompts that are in two splits; every output then says so.
    """
    kind = find_problem(env)
    if compute_weights is not None:
        if objective.compute_weight is not None:
            reason = "is the same option as --objective.compute-weight"
            raise InputError("compute_weights", compute_weights, reason, "give one of them")
        if "compute_weight" not in kind.objective_fields:
            raise InputError("compute_weights", compute_weights, f"{env} has none", "leave it out")
        objective = replace(objective, compute_weight=compute_weights)
    instance = build_problem(
        env, table, problem, objective, kind.compared_weights, allow_leakage=allow_leakage
    )
    selected = _METHODS.get(env) if methods is None else methods
    with progress_of("trials", err) as progress:
        study = compare_methods(
            instance,
            None if selected is None else names_in(selected),
            seeds=seeds,
            n_trials=n_trials,
            jobs=jobs,
            out=out,
            command="train_router.py " + shlex.join(sys.argv[1:]),
            progress=progress,
        )
    return {**study.results, "out": str(out), "reused": study.reused}


COMMAND = Command(run=compare, view=results_view, groups=compare_groups, keeps_config=True)
