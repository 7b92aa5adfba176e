"""`tune`: search the hyperparameters of one method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Count

from ..problems.registry import find_problem
from ..reports.terminal import progress_of
from ..reports.tuning_view import tuning_view
from ..studies.tuning.optuna_extra import require_optuna
from ..studies.tuning.tune_options import SearchOptions
from .best_config import changed_options, check_best, write_best
from .command import Command
from .data_options import ComparedObjective, DataOptions
from .error_text import METHOD_KEY
from .problem_options import build_problem, compare_groups, default_method
from .values import trackers_in

__all__ = ["COMMAND", "TuningOptions", "run_tune"]

err = Console(stderr=True)


@dataclass(frozen=True, kw_only=True)
class TuningOptions(CheckedOptions):
    """The method to tune, and the size of the search.

    Attributes:
        method: name of the method, see `list`; null: ppo for routing, else the problem's first.
        n_trials: number of trials of the study, those of earlier commands and of other workers included.
        jobs: number of processes, or of trials at a time.
        engine: where trials run: local (this machine) or ray (the Ray cluster of RAY_ADDRESS, or one that is
            started here).
        track: comma-separated trackers of the trials: tensorboard, mlflow, wandb; none: no tracker.
    """

    method: str | None = None
    n_trials: Count = 100
    jobs: Count = 1
    engine: str = "local"
    track: list[str] | str = "tensorboard"


def run_tune(
    *,
    data: DataOptions,
    out: Path,
    tuning: TuningOptions,
    search: SearchOptions,
    problem: Any,
    objective: ComparedObjective,
) -> dict[str, Any]:
    """Search the hyperparameters of one method with Optuna, by utility on validation rows; resumes.

    Needs pip install 'router-rl[tune]'. Test rows are not read. Give the same command again to go on. To work
    on one study from several terminals or machines, give each the same --storage and its own --out.

    Args:
        data: the problem and its table.
        out: folder for tuning.json, best.yaml (for `train --config`) and charts.
        tuning: the method, trials and processes.
        search: the storage, sampler, pruner, seed and search space.
        problem: options of the problem.
        objective: the objective.
    """
    method = tuning.method or default_method(data.env)
    require_optuna("method", method)
    from ..studies.engines.jobs import Jobs
    from ..studies.tracking.tracked import Tracked
    from ..studies.tuning.tune import tune
    from ..studies.tuning.tuning import BEST_FILE

    jobs = Jobs(tuning.jobs, tuning.engine)
    tracked = Tracked(out, trackers_in(tuning.track))
    instance = build_problem(data, problem, objective, find_problem(data.env).trained_weights)
    check_best(out / BEST_FILE)
    with progress_of("trials", err) as progress:
        tuned = tune(
            instance,
            method,
            tracked,
            n_trials=tuning.n_trials,
            options=search,
            jobs=jobs,
            progress=progress,
        )
    options = {
        **changed_options(data),
        "method": method,
        "seed": search.seed,
        METHOD_KEY: tuned.facts["hyperparameters"],
    }
    for name, value in (("problem", changed_options(problem)), ("objective", changed_options(objective))):
        options |= {name: value} if value else {}
    write_best(out / BEST_FILE, options)
    return {**tuned.facts, "tuning": str(out)}


COMMAND = Command(run=run_tune, view=tuning_view, groups=compare_groups, keeps_config=True)
