"""Trials of a study in parallel: each worker opens the study's storage, and runs one trial after another."""

from __future__ import annotations

import socket
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.trial import TrialState
from sqlalchemy.engine import make_url

from experts import InputError

from ..engines.engine import Key
from ..engines.jobs import Jobs
from ..engines.registry import opened_engine
from ..tracking.recorded import Call, Recorded, log_recorded
from .optuna_extra import quiet_optuna
from .study_storage import StudyStorage
from .trial_states import JOB, queue_again
from .tuning_worker import Outcome, Search, run_next

__all__ = ["parallel_outcomes"]

Ended = tuple["Outcome | None", list[Call]]
"""The outcome of a trial, if the study lacked one, and what trackers were told where it ran."""


def parallel_outcomes(search: Search, study: optuna.Study, jobs: Jobs, wanted: int) -> Iterator[Outcome]:
    """Run trials of a study, and yield the outcome of each.

    A trial whose worker is lost is queued again, with the same hyperparameters.

    Args:
        search: the search.
        study: the study, opened in this process.
        jobs: number of trials at a time, and the engine.
        wanted: number of trials that the study lacks.

    Raises:
        InputError: workers run on other machines, and the study is in a file of this one.
    """
    with opened_engine(jobs.engine, replace(search, storage=_absolute(search.storage)), jobs.count) as engine:
        if not engine.has_one_machine and search.storage.startswith("sqlite"):
            problem = f"is a file of {socket.gethostname()}, which workers on other machines cannot use"
            raise InputError("storage", search.storage, problem, "use postgresql://user@host/name")

        def lost(job: Key) -> None:
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if trial.user_attrs.get(JOB) == job:
                    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                    queue_again(study, trial)

        work = _in_place if engine.shares_folder else _away
        names = [f"{uuid.uuid4().hex}-{number}" for number in range(wanted)]
        for _, (outcome, calls) in engine.results(work, {name: (name,) for name in names}, lost):
            log_recorded(calls, search.tracked)
            if outcome is not None:
                yield outcome


def _in_place(search: Search, job: str) -> Ended:
    """Run a trial in a worker process on this machine, which sees the output folder."""
    return _next(replace(search, job=job), search), []


def _away(search: Search, job: str) -> Ended:
    """Run a trial in a temporary folder of another machine, and record what trackers get."""
    recorded = None if search.tracked is None else Recorded(search.tracked.folder)
    with tempfile.TemporaryDirectory(prefix="router-rl-trial-") as place:
        outcome = _next(replace(search, job=job, folder=Path(place), tracked=recorded), search)
    return outcome, [] if recorded is None else recorded.calls


def _next(search: Search, kept: Search) -> Outcome | None:
    with quiet_optuna():
        study = _opened(kept)
        with StudyStorage(search.storage).reported():
            return run_next(search, study)


_OPEN: list[tuple[Search, StudyStorage, optuna.Study]] = []
"""The study that this worker process has open, at most one."""


def _opened(search: Search) -> optuna.Study:
    """Return the study of a worker process, which opens it once, and closes that of the search before."""
    if _OPEN and _OPEN[0][0] is search:
        return _OPEN[0][2]
    for _, storage, _ in _OPEN:
        storage.close()
    _OPEN.clear()
    storage = StudyStorage(search.storage)
    _OPEN.append((search, storage, storage.opened(search.study_name, search.options, search.identity)))
    return _OPEN[0][2]


def _absolute(storage: str) -> str:
    """Return the URL of a database with the whole path of its file, for workers in another folder."""
    url = make_url(storage)
    if url.get_backend_name() != "sqlite" or url.database is None:
        return storage
    return url.set(database=str(Path(url.database).absolute())).render_as_string(hide_password=False)
