"""The trials of a comparison: hyperparameter search with one seed, then refits with the other seeds."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import joblib
import torch

from ..methods.budget import amortizes
from ..methods.method import Method
from ..problems.problem import Case, Problem
from .tracking.tracked import Tracked
from .trial import Trial, TrialResult, run_trial

__all__ = ["Progress", "Sweep"]

Progress = Callable[[int, int, str], None]
Key = tuple[str, "Case | None"]

_current: dict[str, Sweep] = {}
"""In a worker process: the sweep that it runs trials of, by its token; never more than one."""


@dataclass(kw_only=True)
class Sweep:
    """Fits every method in every case with every seed; finished trials are reused.

    Attributes:
        problem: the problem, with all its cases.
        folder: folder of the trials.
        tracked: where trials are logged; None: nowhere.
        jobs: number of processes.
        seeds: number of training seeds (0, 1, ...).
        n_trials: number of hyperparameter settings tried per method and case.
        progress: is called with (trials done, total trials, what was done last).
        digest: digest of the problem; computed if empty.
        token: identifies the sweep in worker processes.
    """

    problem: Problem
    folder: Path
    tracked: Tracked | None
    jobs: int
    seeds: int
    n_trials: int
    progress: Progress | None = None
    digest: str = ""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _done: int = 0
    _total: int = 0

    def __post_init__(self) -> None:
        self.digest = self.digest or self.problem.digest()

    def run(self, methods: Sequence[Method]) -> list[TrialResult]:
        """Fit all methods; methods that start from another run last, from the best non-RL one on validation.

        Args:
            methods: distinct methods.

        Returns:
            one result per method, case (or all cases) and seed.
        """
        candidates: dict[Key, list[Any]] = {}
        for case in self.problem.cases:
            for method in methods:
                key = (method.name, None if amortizes(method, self.problem) else case)
                if key not in candidates:
                    candidates[key] = method.candidates(self.n_trials)
        self._total = sum(len(each) + self.seeds - 1 for each in candidates.values())
        by_name = {method.name: method for method in methods}
        first = {key: c for key, c in candidates.items() if by_name[key[0]].warm_starts_from is None}
        results = self._fit(first)
        second = {key: c for key, c in candidates.items() if key not in first}
        for (name, case), options in second.items():
            starts = [] if case is None else _starts(results, case, by_name)
            second[name, case] = _started(by_name[name], options, starts)
            self._total -= len(options) - len(second[name, case])
        return [*results, *self._fit(second)]

    def _fit(self, candidates: Mapping[Key, Sequence[Any]]) -> list[TrialResult]:
        """Search hyperparameters with seed 0, then refit the best of each method and case with more seeds."""
        first = [
            Trial(method=name, hyperparameters=each, case=case, seed=0, number=number)
            for (name, case), options in candidates.items()
            for number, each in enumerate(options)
        ]
        best: dict[tuple[str, str | None], TrialResult] = {}
        for result in self._run(first):
            label = None if result.trial.case is None else result.trial.case.label
            key = (result.trial.method, label)
            if key not in best or result.validation_utility > best[key].validation_utility:
                best[key] = result
        rest = [replace(result.trial, seed=seed) for result in best.values() for seed in range(1, self.seeds)]
        return [*best.values(), *self._run(rest)]

    def _run(self, trials: Sequence[Trial]) -> list[TrialResult]:
        """Run trials, in parallel if there are several jobs; returns results in the trials' order."""
        if self.jobs == 1 or len(trials) <= 1:
            results: list[TrialResult] = []
            for trial in trials:
                results.append(self._one(trial))
                self._advance(results[-1])
            return results
        results_of: dict[int, TrialResult] = {}
        with joblib.parallel_config("loky", n_jobs=self.jobs, inner_max_num_threads=1):
            pool: Any = joblib.Parallel(return_as="generator_unordered")
            work = replace(self, progress=None)
            for index, result in pool(joblib.delayed(_in_worker)(work, i, t) for i, t in enumerate(trials)):
                results_of[index] = result
                self._advance(result)
        return [results_of[index] for index in range(len(trials))]

    def _one(self, trial: Trial) -> TrialResult:
        return run_trial(trial, self.problem, self.folder, digest=self.digest, tracked=self.tracked)

    def _advance(self, result: TrialResult) -> None:
        self._done += 1
        if self.progress is not None:
            reused = " (reused)" if result.reused else ""
            what = f"{result.trial.method}, seed {result.trial.seed}{reused}"
            self.progress(self._done, self._total, what)


def _in_worker(sweep: Sweep, index: int, trial: Trial) -> tuple[int, TrialResult]:
    """Run a trial in a worker process; return its index and result.

    Every task brings a copy of the sweep whose problem has an empty cache. The process keeps the first copy
    for all trials of the sweep, so that it computes each value that the problem caches once.
    """
    torch.set_num_threads(1)
    if sweep.token not in _current:
        _current.clear()
        _current[sweep.token] = sweep
    return index, _current[sweep.token]._one(trial)  # pyright: ignore[reportPrivateUsage]


def _starts(results: Sequence[TrialResult], case: Case, methods: Mapping[str, Method]) -> list[Trial]:
    """Return a trial of each method that others may start from, highest mean validation utility first.

    Args:
        results: of all methods.
        case: the case.
        methods: by name.
    """
    fits: dict[str, list[TrialResult]] = {}
    for result in results:
        trial, method = result.trial, methods[result.trial.method]
        known = trial.case is not None and trial.case.label == case.label
        if known and method.family != "rl" and method.starts and not method.needs:
            fits.setdefault(trial.method, []).append(result)

    def utility(name: str) -> float:
        return fmean(fit.validation_utility for fit in fits[name])

    return [fits[name][0].trial for name in sorted(fits, key=utility, reverse=True)]


def _started(method: Method, options: Sequence[Any], starts: Sequence[Trial]) -> list[Any]:
    """Return the distinct hyperparameters of a method that starts from the first start it can start from.

    Args:
        method: the method.
        options: its hyperparameters, one per trial.
        starts: the strongest first.
    """
    assert method.warm_starts_from is not None
    for start in starts:
        started = [method.warm_starts_from(each, start.method, start.hyperparameters) for each in options]
        if all(each is not None for each in started):
            return list(dict.fromkeys(started))
    return list(options)
