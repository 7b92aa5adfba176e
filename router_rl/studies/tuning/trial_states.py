"""States of the trials of a study: which trials count, and which were interrupted and run again."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from experts import InputError

__all__ = [
    "ERROR",
    "FAILURES",
    "JOB",
    "REPEATS",
    "SURPLUS",
    "WORKER",
    "counted",
    "ends_the_command",
    "original_of",
    "place_of",
    "queue_again",
    "requeue_interrupted",
]

FAILURES = (ValueError, ArithmeticError, RuntimeError)
"""Errors of a fit that end its trial, not the study: bad values, and numbers that are not finite."""

WORKER = "worker"
"""Attribute of a trial: the output folder's key of the command that ran it."""

JOB = "job"
"""Attribute of a trial: the job of an engine that runs it, by which it is found if its worker is lost."""

ERROR = "error"
"""Attribute of a failed trial: why."""

REPEATS = "repeats"
"""Attribute of a trial: number of the trial with the same hyperparameters, whose result it takes."""

SURPLUS = "surplus"
"""Attribute of a trial that two workers started for the last place; it does not count."""

_HISTORY = "retry_history"  # system attribute, as Optuna's own retries have it


def ends_the_command(error: BaseException) -> bool:
    """Return whether an error of a fit does not depend on its hyperparameters, so that every trial has it."""
    return isinstance(error, InputError) and error.field in ("track", "checkpoint")


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count: complete, pruned, failed with an error, or running.

    Args:
        trials: all trials of the study.
    """
    return [trial for trial in trials if _counts(trial)]


def place_of(number: int, trials: Sequence[FrozenTrial]) -> int:
    """Return the number that a trial would have if no trial before it had been interrupted.

    Args:
        number: number of the trial.
        trials: all trials of the study.
    """
    gone = [trial for trial in trials if trial.number < number and _is_interrupted(trial)]
    return number - len(gone)


def original_of(trial: FrozenTrial) -> int:
    """Return the number of the interrupted trial that a trial runs again, or its own."""
    history: list[int] = trial.system_attrs.get(_HISTORY, [])
    return history[0] if history else trial.number


def queue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial with the hyperparameters of an interrupted one.

    Args:
        study: the study.
        trial: the interrupted trial.
    """
    history = [*trial.system_attrs.get(_HISTORY, []), trial.number]
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs={**trial.system_attrs, _HISTORY: history},
        )
    )


def requeue_interrupted(study: optuna.Study, worker: str, alone: bool) -> None:
    """Queue the trials again that an earlier command did not finish.

    Args:
        study: the study.
        worker: key of the output folder, in which no other command runs.
        alone: whether no other output folder ever worked on the study.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get(WORKER)
        if owner == worker or (owner is None and alone):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    trials = study.get_trials(deepcopy=False)
    queued = {number for trial in trials for number in trial.system_attrs.get(_HISTORY, [])}
    for trial in trials:
        if _is_interrupted(trial) and SURPLUS not in trial.user_attrs and trial.number not in queued:
            queue_again(study, trial)


def _counts(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.RUNNING:
        return WORKER in trial.user_attrs  # without it, a worker was killed while it began
    return trial.state.is_finished() and not _is_interrupted(trial)


def _is_interrupted(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and ERROR not in trial.user_attrs
