"""Results of a search: the best hyperparameters, every trial, and how much each hyperparameter matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from experts import InputError

from ...methods.method import Method
from ...problems.options import as_json
from .distributions import hyperparameters_of
from .trial_states import ERROR, REPEATS, counted
from .tuning import Tuning
from .tuning_worker import Search

__all__ = ["SCHEMA_VERSION", "results_of"]

SCHEMA_VERSION = 1
_ENOUGH = 10  # complete trials from which importances are computed
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


def results_of(study: optuna.Study, search: Search, method: Method, storage: str, reused: int) -> Tuning:
    """Return the results of a study.

    Args:
        study: the study.
        search: the search.
        method: the method.
        storage: URL of the database, without a password.
        reused: number of trials that earlier commands finished.

    Raises:
        InputError: no trial is complete.
    """
    trials = counted(study.get_trials(deepcopy=False))
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    if not complete:
        reason = f"none of its {len(trials)} trials is complete"
        raise InputError("n_trials", search.n_trials, reason, "use more trials, or --pruner NopPruner")
    best = max(complete, key=_value)  # the first of equal ones
    hyperparameters = hyperparameters_of(best.params, method, search.space)
    counts = Counter(_STATES[trial.state] for trial in trials)
    default = method.hyperparameters()
    facts = {
        "schema_version": SCHEMA_VERSION,
        "problem": as_json(search.problem.describe()),
        "method": search.method,
        "case": "all cases" if search.case is None else search.case.label,
        "study_name": search.study_name,
        "storage": storage,
        **{name: getattr(search.options, name) for name in ("sampler", "pruner", "seed")},
        "n_trials": search.n_trials,
        "counts": {
            **{name: counts[name] for name in _STATES.values()},
            "repeated": sum(REPEATS in trial.user_attrs for trial in trials),
            "reused": reused,
        },
        "space": search.identity["space"],
        "defaults": {name: as_json(getattr(default, name)) for name in search.space},
        "default_utility": next(
            (_value(each) for each in complete if _is_of(each, default, method, search)), None
        ),
        "best": {"trial": trials.index(best), "validation_utility": _value(best)},
        "hyperparameters": as_json(hyperparameters),
        "importance": _importance(study, complete),
        "trials": [_trial_as_json(trial) for trial in trials if trial.state.is_finished()],
        "errors": _errors(trials),
    }
    return Tuning(facts=facts, folder=search.folder, best=hyperparameters, validation_utility=_value(best))


def _is_of(trial: FrozenTrial, hyperparameters: Any, method: Method, search: Search) -> bool:
    return bool(hyperparameters_of(trial.params, method, search.space) == hyperparameters)


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _trial_as_json(trial: FrozenTrial) -> dict[str, Any]:
    started, ended = trial.datetime_start, trial.datetime_complete
    return {
        "state": _STATES[trial.state],
        "validation_utility": trial.value if trial.state == TrialState.COMPLETE else None,
        "parameters": dict(trial.params),
        "validations": len(trial.intermediate_values),
        "seconds": None if started is None or ended is None else (ended - started).total_seconds(),
    }


def _errors(trials: list[FrozenTrial]) -> list[str]:
    """Return why trials failed, each reason once."""
    return list(dict.fromkeys(trial.user_attrs[ERROR] for trial in trials if ERROR in trial.user_attrs))


def _importance(study: optuna.Study, complete: list[FrozenTrial]) -> Mapping[str, float]:
    """Return the share of the variance of the utility that each hyperparameter explains (fANOVA).

    Source:
        Hutter, Hoos & Leyton-Brown 2014, An Efficient Approach for Assessing Hyperparameter Importance,
        https://proceedings.mlr.press/v32/hutter14.html; as Optuna computes it.
    """
    if len(complete) < _ENOUGH or len({trial.value for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)
