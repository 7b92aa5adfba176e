"""Run a study: open its storage, run trials until it has enough, and write the results.

study.json       the study that the folder belongs to
study.db         the study, unless it is in another storage
tuning.json      results; written last
history.svg      utility of every trial
importance.svg   importance of each hyperparameter
trials/          checkpoints of running trials
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import optuna
from optuna.trial import TrialState

from experts import InputError
from experts.io.atomic import write_json
from experts.io.json_file import read_json, sealed
from experts.io.owned_folder import check_claimable, claim_folder

from ...methods.budget import amortizes, check_budget
from ...methods.fit import learnable
from ...methods.method import Method
from ...methods.search_space import SearchSpace, changed_space, read_space, search_space
from ...problems.problem import Problem
from ...reports.tuning_charts import write_tuning_charts
from ..engines.jobs import Jobs
from ..tracking.run_identity import TRACKING_FILE
from ..tracking.tracked import Tracked
from ..trial_fit import case_as_json
from .distributions import default_parameters, searched
from .optuna_extra import quiet_optuna
from .parallel_search import parallel_outcomes
from .study_storage import StudyStorage
from .trial_states import counted, requeue_interrupted
from .tune_options import SearchOptions
from .tuning import BEST_FILE, Progress, Tuning
from .tuning_results import SCHEMA_VERSION, results_of
from .tuning_worker import Outcome, Search, run_next

__all__ = ["run_study"]

_STUDY_FILE = "study.json"
_WRITTEN = (
    *("tuning.json", "config.yaml", "history.svg", "importance.svg", "tensorboard", "trials", "study.db"),
    *(_STUDY_FILE, BEST_FILE, TRACKING_FILE),
)
_FAILED_FIRST = 3  # failed trials without any other after which the search ends


class _StudyFile(TypedDict):
    """`study.json`."""

    worker: str
    study_name: str
    storage: str | None
    identity: dict[str, Any]


def run_study(
    problem: Problem,
    method: str,
    tracked: Tracked,
    n_trials: int,
    options: SearchOptions,
    space: Mapping[str, Any] | None,
    jobs: Jobs,
    progress: Progress | None,
) -> Tuning:
    """Run the trials of a study that it lacks, and write the results; see `tune`.

    Args:
        problem: the problem.
        method: name of the method.
        tracked: the output folder and the trackers.
        n_trials: number of trials of the study.
        options: storage, name of the study, sampler, pruner, seed and file of the search space.
        space: ranges by hyperparameter, in place of a file of them.
        jobs: number of processes, and the engine that runs them.
        progress: is called with (trials done, total trials, what was done last).
    """
    learner = learnable(method, problem)
    if problem.cases[0].objective is not None:
        check_budget([learner], problem.cases[0].objective)
    ranges = _space(learner, options, space)
    search = Search(
        problem=problem,
        method=method,
        case=None if amortizes(learner, problem) else problem.cases[(len(problem.cases) - 1) // 2],
        space=ranges,
        n_trials=n_trials,
        digest=problem.digest(),
        folder=Path(tracked.folder),
        worker="",
        tracked=tracked,
        options=options,
        study_name=options.study_name or f"{problem.name}-{method}",
        storage=options.storage or f"sqlite:///{Path(tracked.folder) / 'study.db'}",
        identity={},
    )
    search = replace(search, identity=_identity(search, learner))
    with quiet_optuna(), StudyStorage(search.storage) as storage:
        place = None if options.storage is None else storage.name  # a folder may be moved with its study
        check_claimable(search.folder, "tuning", _WRITTEN)
        kept = _kept_worker(search, place)
        if options.storage is not None or storage.exists:
            storage.check(search.study_name, search.identity)
        claim_folder(search.folder, "tuning", _WRITTEN)
        search = replace(search, worker=kept or _new_worker(search, place))
        with storage.reported():
            study = storage.opened(search.study_name, options, search.identity)
            _begin(study, search, learner)
            done = len(_finished(study))
            _run(search, study, jobs, progress)
            tuning = results_of(study, search, learner, storage.name, done)
        shutil.rmtree(search.folder / "trials", ignore_errors=True)
        write_tuning_charts(tuning.facts, search.folder)
        write_json(search.folder / "tuning.json", sealed(tuning.facts))
    return tuning


def _space(learner: Method, options: SearchOptions, space: Mapping[str, Any] | None) -> SearchSpace:
    if options.space is not None and space is not None:
        raise InputError("space", str(options.space), "is given twice", "give a file or a mapping")
    ranges = search_space(learner) if space is None else changed_space(space, learner)
    if options.space is not None:
        ranges = read_space(options.space, learner)
    if not searched(ranges):
        fix = "train it, or give --space with the ranges of its hyperparameters"
        raise InputError("method", learner.name, "has no hyperparameter to search", fix)
    return ranges


def _identity(search: Search, learner: Method) -> dict[str, Any]:
    """Return everything that the result of a trial depends on, besides its hyperparameters."""
    cases = search.problem.cases if search.case is None else (search.case,)
    return {
        "schema_version": SCHEMA_VERSION,
        "problem": search.problem.name,
        "data": search.digest,
        "method": learner.name,
        "cases": [case_as_json(case) for case in cases],
        "seed": search.options.seed,
        "space": {name: each.to_json() for name, each in search.space.items()},
    }


def _kept_worker(search: Search, storage: str | None) -> str | None:
    """Return the folder's key in the study, if it was tuned in before."""
    path = search.folder / _STUDY_FILE
    if not path.exists():
        return None
    kept = read_json("out", path, _StudyFile, fix="use another --out")
    own = {"study_name": search.study_name, "storage": storage, **search.identity}
    before = {"study_name": kept["study_name"], "storage": kept["storage"], **kept["identity"]}
    changed = sorted(name for name in {*own, *before} if own.get(name) != before.get(name))
    if changed:
        reason = f"belongs to a search with another {', '.join(changed)}"
        raise InputError(
            "out", str(search.folder), reason, "use another --out, or the options of that search"
        )
    return kept["worker"]


def _new_worker(search: Search, storage: str | None) -> str:
    worker = uuid.uuid4().hex
    facts = {
        "worker": worker,
        "study_name": search.study_name,
        "storage": storage,
        "identity": search.identity,
    }
    write_json(search.folder / _STUDY_FILE, sealed(facts))
    return worker


def _begin(study: optuna.Study, search: Search, learner: Method) -> None:
    """Queue the interrupted trials of this folder again, and the defaults as the first trial of a study."""
    study.set_user_attr(f"worker {search.worker}", True)
    alone = [name for name in study.user_attrs if name.startswith("worker ")] == [f"worker {search.worker}"]
    requeue_interrupted(study, search.worker, alone)
    defaults = default_parameters(learner, search.space)
    if defaults is not None and not study.get_trials(deepcopy=False):
        study.enqueue_trial(defaults)


def _run(search: Search, study: optuna.Study, jobs: Jobs, progress: Progress | None) -> None:
    best = [each.value for each in _finished(study) if each.state == TrialState.COMPLETE]
    record = max(best, default=None)
    done, failed = len(_finished(study)), 0
    for outcome in _outcomes(search, study, jobs, search.n_trials - len(counted(study.get_trials()))):
        done += 1
        if outcome.value is not None:
            record = outcome.value if record is None else max(record, outcome.value)
        if progress is not None:
            last = outcome.state if outcome.value is None else f"validation utility {outcome.value:.4f}"
            progress(done, search.n_trials, last if record is None else f"{last}, best {record:.4f}")
        failed += outcome.state == "failed"
        if outcome.error is not None and failed >= min(_FAILED_FIRST, search.n_trials):
            _check_some(study, search, outcome.error)


def _check_some(study: optuna.Study, search: Search, error: str) -> None:
    """Raise InputError if every trial failed."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    if not study.get_trials(deepcopy=False, states=ended):
        fix = "correct this, or give a --space without such values and another --study-name"
        raise InputError("method", search.method, f"every trial failed, the last one because {error}", fix)


def _outcomes(search: Search, study: optuna.Study, jobs: Jobs, wanted: int) -> Iterator[Outcome]:
    """Run trials, in parallel if there are several jobs, until the study has enough."""
    if jobs.engine == "local" and (jobs.count == 1 or wanted <= 1):
        while (outcome := run_next(search, study)) is not None:
            yield outcome
        return
    if wanted > 0:
        yield from parallel_outcomes(search, study, jobs, wanted)
        # What other commands left, and trials whose workers were lost.
        left = search.n_trials - len(counted(study.get_trials(deepcopy=False)))
        yield from _outcomes(search, study, Jobs(1) if jobs.engine == "local" else jobs, left)


def _finished(study: optuna.Study) -> list[Any]:
    return [trial for trial in counted(study.get_trials(deepcopy=False)) if trial.state.is_finished()]
