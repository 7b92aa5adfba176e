"""Tune one method: search its hyperparameters with Optuna, by utility on validation rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experts import InputError

from ...problems.problem import Problem
from ..engines.jobs import Jobs
from ..tracking.tracked import Tracked
from .optuna_extra import require_optuna
from .tune_options import SearchOptions
from .tuning import Progress, Tuning

__all__ = ["tune"]


def tune(
    problem: Problem,
    method: str,
    out: Path | str | Tracked,
    *,
    n_trials: int = 100,
    options: SearchOptions | None = None,
    space: Mapping[str, Any] | None = None,
    jobs: Jobs | int = 1,
    progress: Progress | None = None,
) -> Tuning:
    """Search the hyperparameters of a method with Optuna; calling it again goes on with the study.

    A trial is a fit that is measured on the tuning rows, half of the validation rows, which no fit reads.
    Trials are pruned by the utility on the other half while they train. Test rows are not read. The first
    trial has the method's defaults. A problem with several cases is tuned in its middle case, unless one fit
    serves all cases. Several processes and machines can work on one storage, each with its own `out`.

    Args:
        problem: the problem.
        method: name of the method, see `train_router.py list`.
        out: the output folder; `Tracked(folder, "mlflow")` logs to other trackers than TensorBoard.
        n_trials: number of trials of the study, those of earlier calls and other processes included.
        options: storage, name of the study, sampler, pruner, seed and file of the search space.
        space: ranges by hyperparameter, in place of a file of them.
        jobs: number of processes; `Jobs(8, "ray")` runs the trials on a Ray cluster.
        progress: is called with (trials done, total trials, what was done last).

    Returns:
        the best hyperparameters and all trials.

    Raises:
        InputError: the method cannot be tuned, a value or range is wrong, the storage cannot be used, or the
            study or the folder is of another search.
    """
    require_optuna("method", method)
    if n_trials < 1:
        raise InputError("n_trials", n_trials, "is below 1", "use 1 or more")
    jobs = Jobs.of(jobs)
    from .study_run import run_study

    tracked = Tracked.of(out)
    return run_study(problem, method, tracked, n_trials, options or SearchOptions(), space, jobs, progress)
