"""One trial of a study: fit with sampled hyperparameters, report each validation, and measure.

The test rows are not read: a trial's value is the mean utility on the tuning rows, half of the validation
rows, which no fit reads. While a method trains, the pruner sees its utility on the other half.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from ...methods.method import Method
from ...methods.registry import find_method
from ...methods.search_space import SearchSpace
from ...methods.training_loop import Snapshot
from ...problems.problem import Case, Problem
from ..tracking.tracked import Tracked
from ..trial_fit import Trial, fitted_trial
from .distributions import hyperparameters_of, suggested
from .trial_states import (
    ERROR,
    FAILURES,
    JOB,
    REPEATS,
    SURPLUS,
    WORKER,
    counted,
    ends_the_command,
    original_of,
)
from .tune_options import SearchOptions

__all__ = ["Outcome", "Search", "run_next"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """What every worker of a search needs.

    Attributes:
        problem: the problem, with all its cases.
        method: name of the method.
        case: the case of the fits; None if one fit serves all cases.
        space: the search space.
        n_trials: trials of the study, those of earlier commands included.
        digest: `problem.digest()`.
        folder: the output folder.
        worker: its key in the study.
        tracked: where trials are logged; None: nowhere.
        options: seed, sampler and pruner.
        study_name: name of the study.
        storage: its database.
        identity: of the study, see `StudyStorage.opened`.
        job: the job of an engine that runs the next trial; empty in this process.
    """

    problem: Problem
    method: str
    case: Case | None
    space: SearchSpace
    n_trials: int
    digest: str
    folder: Path
    worker: str
    tracked: Tracked | None
    options: SearchOptions
    study_name: str
    storage: str
    identity: Mapping[str, Any]
    job: str = ""

    @property
    def prunes(self) -> bool:
        """Whether trials are pruned: not where a budget makes a fit of several fits."""
        objective = self.problem.cases[0].objective
        return self.options.pruner != "NopPruner" and (objective is None or objective.budget is None)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a trial.

    Attributes:
        state: complete, pruned or failed.
        value: its validation utility, if complete.
        error: why it failed.
    """

    state: Literal["complete", "pruned", "failed"]
    value: float | None = None
    error: str | None = None


def run_next(search: Search, study: optuna.Study) -> Outcome | None:
    """Run the next trial of a study; returns None if it has enough.

    Args:
        search: the search.
        study: the study, opened in this process.
    """
    if len(counted(study.get_trials(deepcopy=False))) >= search.n_trials:
        return None
    numbers: list[int] = []

    def objective(trial: optuna.Trial) -> float:
        numbers.append(trial.number)
        return _value(search, study, trial)

    try:
        study.optimize(objective, n_trials=1, catch=(_SurplusError, *FAILURES))
    except _StopError as stop:
        raise stop.error from None
    trial = next(each for each in study.get_trials(deepcopy=False) if each.number == numbers[0])
    shutil.rmtree(_home(search, original_of(trial)), ignore_errors=True)
    if SURPLUS in trial.user_attrs:
        return None
    if trial.state == TrialState.COMPLETE:
        return Outcome(state="complete", value=trial.value)
    if trial.state == TrialState.PRUNED:
        return Outcome(state="pruned")
    return Outcome(state="failed", error=trial.user_attrs.get(ERROR, "interrupted"))


class _SurplusError(Exception):
    """Another worker began the last trial at the same time."""


class _StopError(Exception):
    """An error that other hyperparameters would have, too.

    Args:
        error: the error.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Reports:
    """Callback of a fit that reports the utility of each validation to the pruner.

    Step 0 is left out: a fitted start was selected on the same rows, so its utility is too high.
    """

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial
        self._reported = 0

    def __call__(self, snapshot: Snapshot) -> None:
        """Report what is new since the last snapshot.

        Raises:
            TrialPruned: the pruner stops the trial.
        """
        known = [point.utility for point in snapshot.curve if point.step > 0]  # with those before a resume
        if not snapshot.curve and snapshot.validation is not None and snapshot.step > 0:
            known = [math.nan] * self._reported + [snapshot.validation.means()["utility"]]
        fresh = known[self._reported :]
        for step, utility in enumerate(fresh, self._reported):
            if math.isfinite(utility):
                self._trial.report(utility, step)
        self._reported += len(fresh)
        if fresh and self._trial.should_prune():
            raise optuna.TrialPruned


def _value(search: Search, study: optuna.Study, trial: optuna.Trial) -> float:
    """Fit a trial, and return its mean utility on the tuning rows."""
    if search.job:
        trial.set_user_attr(JOB, search.job)
    trial.set_user_attr(WORKER, search.worker)
    trials = study.get_trials(deepcopy=False)
    if len([each for each in counted(trials) if each.number < trial.number]) >= search.n_trials:
        trial.set_user_attr(SURPLUS, True)
        raise _SurplusError
    own = trials[trial.number]
    parameters = suggested(trial, search.space)
    for each in trials:
        if each.state == TrialState.COMPLETE and each.params == parameters and each.value is not None:
            trial.set_user_attr(REPEATS, each.number)
            return each.value
    try:
        return _fitted_value(search, trial, parameters, original_of(own))
    except FAILURES as error:
        if ends_the_command(error):
            raise _StopError(error) from error
        trial.set_user_attr(ERROR, " ".join(str(error).split()) or type(error).__name__)
        raise


def _fitted_value(search: Search, trial: optuna.Trial, parameters: Mapping[str, Any], number: int) -> float:
    problem = search.problem
    method = find_method(problem.name, search.method)
    assert isinstance(method, Method)
    fit = Trial(
        method=search.method,
        hyperparameters=hyperparameters_of(parameters, method, search.space),
        case=search.case,
        seed=search.options.seed,
        number=number,
    )
    callback = _Reports(trial) if search.prunes else None
    identity = fit.identity(problem, search.digest)
    home = _home(search, number)
    with fitted_trial(fit, problem, home, identity, tracked=search.tracked, callback=callback) as fitted:
        means = {
            case.label: problem.evaluate(fitted.policy, "tuning", case, seed=fit.seed).means()
            for case in fit.cases(problem)
        }
        utility = fmean(each["utility"] for each in means.values())
        if not math.isfinite(utility):
            raise ArithmeticError(f"the validation utility is {utility}")
        if fitted.tracking is not None:
            fitted.tracking.finish({label: {"validation": each} for label, each in means.items()})
    return utility


def _home(search: Search, number: int) -> Path:
    return search.folder / "trials" / f"{number:05d}"
