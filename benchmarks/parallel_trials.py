"""Run trials in parallel processes or on a Ray cluster; finished trials are read, not repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from router_rl import Jobs
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.studies.engines.registry import opened_engine
from router_rl.studies.trial import Trial, TrialResult, run_trial, trial_folder
from router_rl.studies.trial_files import TRIAL_FILE
from router_rl.studies.trial_parcel import TrialParcel, packed_trial, store_parcel

__all__ = ["run_trials"]

Trials = Sequence[tuple[Trial, RoutingProblem]]


def run_trials(
    trials: Trials, folder: Path, *, jobs: Jobs, on_trial: Callable[[TrialResult], None]
) -> list[TrialResult]:
    """Run every trial on its problem, on one thread each.

    Args:
        trials: each with the problem that it is fitted to.
        folder: where finished trials are kept.
        jobs: number of trials at a time, and the engine that runs them.
        on_trial: is passed each result as it is finished.
    """
    results: dict[int, TrialResult] = {}
    problems: list[RoutingProblem] = []
    numbers: dict[int, int] = {}
    for _, problem in trials:
        if id(problem) not in numbers:
            numbers[id(problem)] = len(problems)
            problems.append(problem)
    digests = [problem.digest() for problem in problems]
    with opened_engine(jobs.engine, (problems, folder), jobs.count) as engine:
        calls: dict[int, tuple[Trial, int]] = {}
        for index, (trial, problem) in enumerate(trials):
            number = numbers[id(problem)]
            home = trial_folder(trial, problem, folder, digests[number])
            if engine.shares_folder or not (home / TRIAL_FILE).exists():
                calls[index] = (trial, number)
            else:
                results[index] = run_trial(trial, problem, folder)
                on_trial(results[index])
        work = _run if engine.shares_folder else _packed
        for index, found in engine.results(work, calls):
            if isinstance(found, TrialParcel):
                trial, problem = trials[index]
                found = store_parcel(found, trial, problem, folder, digest=digests[calls[index][1]])
            results[index] = found
            on_trial(found)
    return [results[index] for index in range(len(trials))]


def _run(shared: tuple[list[RoutingProblem], Path], trial: Trial, number: int) -> TrialResult:
    problems, folder = shared
    return run_trial(trial, problems[number], folder)


def _packed(shared: tuple[list[RoutingProblem], Path], trial: Trial, number: int) -> TrialParcel:
    problem = shared[0][number]
    return packed_trial(trial, problem, problem.digest(), None)
