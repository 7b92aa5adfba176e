"""The trials of a comparison: hyperparameters are tried with one seed, the best refitted with the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import joblib
import torch

from ..methods.budget import amortizes
from ..methods.method import Method
from ..problems.problem import Case, Problem
from .trial import Trial, TrialResult, run_trial

__all__ = ["Progress", "Sweep"]

Progress = Callable[[int, int, str], None]
Key = tuple[str, "Case | None"]


@dataclass(kw_only=True)
class Sweep:
    """Fits every method in every case with every seed; finished trials are read, not repeated.

    Attributes:
        problem: with all its cases.
        folder: of the trials.
        tensorboard: of the TensorBoard runs, or None.
        jobs: processes.
        seeds: training seeds 0, 1, ...
        n_trials: hyperparameter settings tried for each method and case.
        progress: is passed (trials done, trials in all, what was done last).
        digest: of the problem; computed if empty.
    """

    problem: Problem
    folder: Path
    tensorboard: Path | None
    jobs: int
    seeds: int
    n_trials: int
    progress: Progress | None = None
    digest: str = ""
    _done: int = 0
    _total: int = 0

    def __post_init__(self) -> None:
        self.digest = self.digest or self.problem.digest()

    def run(self, methods: Sequence[Method]) -> list[TrialResult]:
        """Fit all; methods that start from a gate come last, from the gate that validation picks.

        Args:
            methods: distinct.
        """
        candidates: dict[Key, list[Any]] = {}
        for case in self.problem.cases:
            for method in methods:
                key = (method.name, None if amortizes(method, self.problem) else case)
                if key not in candidates:
                    candidates[key] = method.candidates(self.n_trials)
        self._total = sum(len(found) + self.seeds - 1 for found in candidates.values())
        by_name = {method.name: method for method in methods}
        first = {key: c for key, c in candidates.items() if by_name[key[0]].warm_starts_from is None}
        results = self._fit(first)
        second = {key: c for key, c in candidates.items() if key not in first}
        for (name, case), found in second.items():
            gate = None if case is None else _best_gate(results, case, by_name)
            start = by_name[name].warm_starts_from
            if gate is not None and start is not None:
                started = [start(each, gate.method, gate.hyperparameters) for each in found]
                second[name, case] = list(dict.fromkeys(started))
                self._total -= len(found) - len(second[name, case])
        return [*results, *self._fit(second)]

    def _fit(self, candidates: Mapping[Key, Sequence[Any]]) -> list[TrialResult]:
        """Try hyperparameters with seed 0, then fit the best of each method and case with the other seeds."""
        first = [
            Trial(method=name, hyperparameters=each, case=case, seed=0, number=number)
            for (name, case), found in candidates.items()
            for number, each in enumerate(found)
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
        """Run trials, in parallel processes if there are several jobs; results in the trials' order."""
        if self.jobs == 1 or len(trials) <= 1:
            results: list[TrialResult] = []
            for trial in trials:
                results.append(self._one(trial))
                self._advance(results[-1])
            return results
        found: dict[int, TrialResult] = {}
        with joblib.parallel_config("loky", n_jobs=self.jobs, inner_max_num_threads=1):
            pool: Any = joblib.Parallel(return_as="generator_unordered")
            work = replace(self, progress=None)
            for index, result in pool(joblib.delayed(work._numbered)(i, t) for i, t in enumerate(trials)):
                found[index] = result
                self._advance(result)
        return [found[index] for index in range(len(trials))]

    def _numbered(self, index: int, trial: Trial) -> tuple[int, TrialResult]:
        torch.set_num_threads(1)
        return index, self._one(trial)

    def _one(self, trial: Trial) -> TrialResult:
        return run_trial(trial, self.problem, self.folder, digest=self.digest, tensorboard=self.tensorboard)

    def _advance(self, result: TrialResult) -> None:
        self._done += 1
        if self.progress is not None:
            reused = " (reused)" if result.reused else ""
            what = f"{result.trial.method}, seed {result.trial.seed}{reused}"
            self.progress(self._done, self._total, what)


def _best_gate(results: Sequence[TrialResult], case: Case, methods: Mapping[str, Method]) -> Trial | None:
    """The gate with the highest mean validation utility over its seeds in a case."""
    gates: dict[str, list[TrialResult]] = {}
    for result in results:
        trial = result.trial
        if (
            trial.case is not None
            and trial.case.label == case.label
            and methods[trial.method].family == "gate"
        ):
            gates.setdefault(trial.method, []).append(result)
    if not gates:
        return None
    return max(gates.values(), key=lambda found: fmean(r.validation_utility for r in found))[0].trial
