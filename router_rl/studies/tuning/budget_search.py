"""The search of a comparison with `--tune-budget`: as many trials of one sampler for every method.

Nothing is stored beside the trials themselves: with the same seed and the same results the sampler draws the
same hyperparameters, so an interrupted search reads its finished trials and goes on.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from optuna.trial import TrialState

from ...methods.method import Method
from ...methods.search_space import search_space
from ...problems.options import as_json
from ...problems.problem import Case
from ..trial import Trial, TrialResult
from .distributions import default_parameters, hyperparameters_of, searched, suggested
from .optuna_extra import quiet_optuna
from .study_storage import study_in_memory
from .trial_states import FAILURES, ends_the_command
from .tune_options import SearchOptions

__all__ = ["best_of_budget"]


def best_of_budget(
    method: Method,
    case: Case | None,
    trials: int,
    starts: Sequence[Trial],
    run: Callable[[Trial], TrialResult],
) -> TrialResult:
    """Search the hyperparameters of a method, and return the trial with the highest validation utility.

    Args:
        method: the method; without a hyperparameter to search, it has one trial.
        case: the case of the fits; None if one fit serves all cases.
        trials: number of trials; the first one has the defaults.
        starts: trials of methods that it may start from, the best first.
        run: fits and measures a trial, or reads it.

    Raises:
        Exception: every fit failed; the error of the last one. If only some fail, a warning says how many.
    """
    space = search_space(method)
    convert = _from_start(method, starts)
    results: dict[str, TrialResult] = {}

    def result_of(hyperparameters: Any, number: int) -> TrialResult:
        converted = convert(hyperparameters)
        key = json.dumps(as_json(converted), sort_keys=True)
        if key not in results:
            each = Trial(method=method.name, hyperparameters=converted, case=case, seed=0, number=number)
            results[key] = run(each)
        return results[key]

    if not searched(space):
        return result_of(method.hyperparameters(), 0)
    with quiet_optuna():
        study = study_in_memory(SearchOptions(pruner="NopPruner"))
        defaults = default_parameters(method, space)
        assert defaults is not None  # the ranges of a method span its defaults
        study.enqueue_trial(defaults)
        failures: list[Exception] = []
        for number in range(trials):
            trial = study.ask()
            hyperparameters = hyperparameters_of(suggested(trial, space), method, space)
            try:
                utility = result_of(hyperparameters, number).validation_utility
            except FAILURES as error:
                if ends_the_command(error):
                    raise
                failures.append(error)
                utility = math.nan
            if math.isfinite(utility):
                study.tell(trial, utility)
            else:
                study.tell(trial, state=TrialState.FAIL)
    if not results:
        raise failures[-1]
    if failures:
        message = f"{method.name}: {len(failures)} of {trials} trials failed, the last because {failures[-1]}"
        warnings.warn(message, stacklevel=2)
    return max(results.values(), key=_comparable)  # the first of equal ones


def _comparable(result: TrialResult) -> float:
    utility = result.validation_utility
    return -math.inf if math.isnan(utility) else utility


def _from_start(method: Method, starts: Sequence[Trial]) -> Callable[[Any], Any]:
    """Return what makes hyperparameters start from the first trial that the method can start from."""
    warm, default = method.warm_starts_from, method.hyperparameters()
    if warm is not None:
        for start in starts:
            if warm(default, start.method, start.hyperparameters) is not None:
                return lambda values: warm(values, start.method, start.hyperparameters)
    return lambda values: values
