"""A sampler that draws the same for the n-th trial of a study, also after an interruption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna import Study, pruners, samplers
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from .trial_states import place_of

__all__ = ["SeededSampler", "new_pruner"]


class SeededSampler(samplers.BaseSampler):
    """One of Optuna's samplers, seeded anew for each trial by the trial's place in the study.

    A sampler that is seeded once would draw the first numbers again when a study resumes, and several
    workers with one seed would draw equal numbers.

    Args:
        name: name of the sampler's class in Optuna.
        seed: random seed.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._name, self._seed = name, seed
        self._current = self._at(0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Seed the sampler."""
        self._current = self._at(place_of(trial.number, study.get_trials(deepcopy=False)))
        self._current.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are sampled together."""
        return self._current.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample the parameters that are sampled together."""
        return self._current.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample another parameter."""
        return self._current.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Let the sampler see the end of a trial."""
        self._current.after_trial(study, trial, state, values)

    def _at(self, place: int) -> samplers.BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, place]).generate_state(1)[0])
        if self._name == "QMCSampler":  # one sequence of points for the whole study
            rest = samplers.RandomSampler(seed=seed)
            return samplers.QMCSampler(
                seed=self._seed, independent_sampler=rest, warn_independent_sampling=False
            )
        if self._name == "GPSampler":
            return samplers.GPSampler(seed=seed, deterministic_objective=True)
        made: samplers.BaseSampler = getattr(samplers, self._name)(seed=seed)
        return made


def new_pruner(name: str) -> pruners.BasePruner:
    """Return one of Optuna's pruners, with Optuna's defaults.

    Args:
        name: name of its class; PercentilePruner keeps the best quarter.
    """
    if name == "PercentilePruner":
        return pruners.PercentilePruner(25.0)
    made: pruners.BasePruner = getattr(pruners, name)()
    return made
