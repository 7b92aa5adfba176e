"""Run trials in parallel processes; finished trials are read, not repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import torch

from router_rl.problems.routing.problem import RoutingProblem
from router_rl.studies.trial import Trial, TrialResult, run_trial

__all__ = ["run_trials"]


def run_trials(
    trials: Sequence[tuple[Trial, RoutingProblem]],
    folder: Path,
    *,
    jobs: int,
    on_trial: Callable[[TrialResult], None],
) -> list[TrialResult]:
    """Run every trial on its problem, on one thread each.

    Args:
        trials: each with the problem that it is fitted to.
        folder: where finished trials are kept.
        jobs: number of processes.
        on_trial: is passed each result, in the order of the trials.
    """
    results: list[TrialResult] = []
    with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
        pool: Any = joblib.Parallel(return_as="generator")
        for result in pool(joblib.delayed(_run)(trial, problem, folder) for trial, problem in trials):
            results.append(result)
            on_trial(result)
    return results


def _run(trial: Trial, problem: RoutingProblem, folder: Path) -> TrialResult:
    torch.set_num_threads(1)
    return run_trial(trial, problem, folder)
