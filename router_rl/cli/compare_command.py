"""`compare`: compare methods on one problem."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.errors import unknown_name
from experts.io.value_range import Count, NonNegative

from ..methods.registry import method_names
from ..problems.registry import find_problem
from ..reports.terminal import progress_of, results_view
from ..studies.operating_target import Target
from .command import Command
from .data_options import ComparedObjective, DataOptions
from .problem_options import build_problem, compare_groups
from .values import names_in, numbers_in, trackers_in

__all__ = ["COMMAND", "StudyOptions", "run_compare"]

err = Console(stderr=True)

_METHODS = {"routing": "ppo,a2c,softmax_gate,switch_gate,ridge"}


@dataclass(frozen=True, kw_only=True)
class StudyOptions(CheckedOptions):
    """The methods to compare, and the size of the comparison.

    Attributes:
        methods: comma-separated names, see `list`; null: a selection for routing, else all. Bounds, constant
            baselines and strong simple rules are always included.
        compute_weights: comma-separated numbers, the same as --objective.compute-weight.
        seeds: number of training seeds (0, 1, ...).
        n_trials: number of hyperparameter settings per method and case, selected on validation.
        tune_budget: search the hyperparameters of every method with so many trials of Optuna, in place of
            --n-trials settings.
        jobs: number of processes, or of trials at a time.
        engine: where trials run: local (this machine) or ray (the Ray cluster of RAY_ADDRESS, or one that is
            started here).
        track: comma-separated trackers of the trials: tensorboard, mlflow, wandb; none: no tracker.
    """

    methods: list[str] | str | None = None
    compute_weights: list[NonNegative] | NonNegative | str | None = None
    seeds: Count = 5
    n_trials: Count = 4
    tune_budget: Count | None = None
    jobs: Count = 1
    engine: str = "local"
    track: list[str] | str = "tensorboard"


def run_compare(
    *,
    data: DataOptions,
    out: Path,
    study: StudyOptions,
    target: Target,
    problem: Any,
    objective: ComparedObjective,
) -> dict[str, Any]:
    """Compare methods on one problem: same data, trials and seeds for all, with confidence intervals.

    Args:
        data: the problem and its table.
        out: folder for results.json, report.html and TensorBoard logs; an interrupted comparison resumes from
            it.
        study: the methods, trials, seeds and processes.
        target: limits of the recommended operating point, selected on validation.
        problem: options of the problem.
        objective: the objective.
    """
    from ..studies.compare import compare
    from ..studies.engines.jobs import Jobs
    from ..studies.tracking.tracked import Tracked
    from ..studies.tuning.tune_options import TuneBudget

    jobs = Jobs(study.jobs, study.engine)
    tracked = Tracked(out, trackers_in(study.track))
    env, compute_weights = data.env, study.compute_weights
    kind = find_problem(env)
    if compute_weights is not None:
        if objective.compute_weight is not None:
            reason = "is the same option as --objective.compute-weight"
            raise InputError("compute_weights", compute_weights, reason, "give one of them")
        if "compute_weight" not in kind.objective_fields:
            raise InputError("compute_weights", compute_weights, f"{env} has none", "leave it out")
        weights = numbers_in("compute_weights", compute_weights)
        objective = replace(objective, compute_weight=weights)
    instance = build_problem(data, problem, objective, kind.compared_weights)
    selected = _METHODS.get(env) if study.methods is None else study.methods
    methods = None if selected is None else names_in("methods", selected)
    for name in methods or ():
        if name not in method_names(env):
            raise unknown_name("methods", name, method_names(env))
    with progress_of("trials", err) as progress:
        compared = compare(
            instance,
            methods,
            seeds=study.seeds,
            n_trials=study.n_trials if study.tune_budget is None else TuneBudget(study.tune_budget),
            jobs=jobs,
            out=tracked,
            target=target,
            progress=progress,
        )
    return {**compared.results, "out": str(out), "reused": compared.reused}


COMMAND = Command(run=run_compare, view=results_view, groups=compare_groups, keeps_config=True)
