"""The trials of a comparison: hyperparameter search with one seed, then refits with the other seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ..methods.budget import amortizes
from ..methods.method import Method
from ..problems.problem import Case, Problem
from .engines.engine import Engine
from .engines.jobs import Jobs
from .engines.registry import opened_engine
from .tracking.tracked import Tracked
from .trial import Trial, TrialResult, read_trial, run_trial, trial_folder
from .trial_files import TRIAL_FILE
from .trial_parcel import TrialParcel, packed_trial, store_parcel
from .tuning.tune_options import TuneBudget

__all__ = ["Progress", "Sweep"]

Progress = Callable[[int, int, str], None]
Key = tuple[str, "Case | None"]
Work = Callable[..., TrialResult]


@dataclass(kw_only=True)
class Sweep:
    """Fits every method in every case with every seed; finished trials are reused.

    Attributes:
        problem: the problem, with all its cases.
        folder: folder of the trials.
        tracked: where trials are logged; None: nowhere.
        jobs: number of processes, or `Jobs` that run elsewhere.
        seeds: number of training seeds (0, 1, ...).
        n_trials: number of hyperparameter settings tried per method and case, or a search of this size.
        progress: is called with (trials done, total trials, what was done last).
        digest: digest of the problem; computed if empty.
    """

    problem: Problem
    folder: Path
    tracked: Tracked | None
    jobs: Jobs | int
    seeds: int
    n_trials: int | TuneBudget
    progress: Progress | None = None
    digest: str = ""
    _done: int = 0
    _total: int = 0
    _engine: Engine | None = None

    def __post_init__(self) -> None:
        self.digest = self.digest or self.problem.digest()

    def run(self, methods: Sequence[Method]) -> list[TrialResult]:
        """Fit all methods; methods that start from another run last, from the best non-RL one on validation.

        Args:
            methods: distinct methods.

        Returns:
            one result per method, case (or all cases) and seed.
        """
        jobs = Jobs.of(self.jobs)
        with opened_engine(jobs.engine, replace(self, progress=None), jobs.count) as engine:
            self._engine = engine
            try:
                return self._all(methods)
            finally:
                self._engine = None

    def _all(self, methods: Sequence[Method]) -> list[TrialResult]:
        candidates: dict[Key, list[Any]] = {}
        for case in self.problem.cases:
            for method in methods:
                key = (method.name, None if amortizes(method, self.problem) else case)
                if key not in candidates:
                    candidates[key] = self._candidates(method)
        self._total = sum(len(each) + self.seeds - 1 for each in candidates.values())
        by_name = {method.name: method for method in methods}
        if isinstance(self.n_trials, TuneBudget):
            return self._search(candidates, by_name, self.n_trials.trials)
        first = {key: c for key, c in candidates.items() if by_name[key[0]].warm_starts_from is None}
        results = self._fit(first)
        second = {key: c for key, c in candidates.items() if key not in first}
        for (name, case), options in second.items():
            starts = [] if case is None else _starts(results, case, by_name)
            second[name, case] = _started(by_name[name], options, starts)
            self._total -= len(options) - len(second[name, case])
        return [*results, *self._fit(second)]

    def _candidates(self, method: Method) -> list[Any]:
        """Return the hyperparameters of each trial; of a search only their number is known before."""
        if not isinstance(self.n_trials, TuneBudget):
            return method.candidates(self.n_trials)
        return [method.hyperparameters()] * (self.n_trials.trials if method.space else 1)

    def _search(
        self, sizes: Mapping[Key, Sequence[Any]], methods: Mapping[str, Method], trials: int
    ) -> list[TrialResult]:
        """Search the hyperparameters of each method and case, one after the other within each."""

        def searches(keys: Sequence[Key], starts: Mapping[Key, Sequence[Trial]]) -> list[TrialResult]:
            tasks = [(methods[key[0]], key[1], trials, starts.get(key, ())) for key in keys]
            done = [len(sizes[key]) for key in keys]
            return self._with_seeds(self._each(_best_of, tasks, done))

        first = [key for key in sizes if methods[key[0]].warm_starts_from is None]
        results = searches(first, {})
        second = [key for key in sizes if key not in first]
        starts = {key: [] if key[1] is None else _starts(results, key[1], methods) for key in second}
        return [*results, *searches(second, starts)]

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
        return self._with_seeds(list(best.values()))

    def _with_seeds(self, best: Sequence[TrialResult]) -> list[TrialResult]:
        """Return trials and their refits with the other seeds."""
        rest = [replace(result.trial, seed=seed) for result in best for seed in range(1, self.seeds)]
        return [*best, *self._run(rest)]

    def _run(self, trials: Sequence[Trial]) -> list[TrialResult]:
        """Run trials, in parallel if there are several jobs; returns results in the trials' order."""
        assert self._engine is not None
        if self._engine.shares_folder:
            return self._each(_one_trial, [(trial,) for trial in trials], [1] * len(trials))
        results: dict[int, TrialResult] = {}
        for index, result in self._from_afar(trials):
            results[index] = result
            self._advance(result, 1)
        return [results[index] for index in range(len(trials))]

    def _each(self, work: Work, tasks: Sequence[tuple[Any, ...]], done: Sequence[int]) -> list[TrialResult]:
        """Do work for each task, in parallel if there are several jobs; returns results in their order.

        Args:
            work: a function of this module, of the sweep and the parts of a task.
            tasks: the tasks.
            done: how many trials each task is.
        """
        assert self._engine is not None
        local = self._engine.shares_folder
        finished = (
            self._engine.results(work, dict(enumerate(tasks))) if local else self._in_threads(work, tasks)
        )
        results: dict[int, TrialResult] = {}
        for index, result in finished:
            results[index] = result
            self._advance(result, done[index])
        return [results[index] for index in range(len(tasks))]

    def _in_threads(self, work: Work, tasks: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, TrialResult]]:
        """Yield the index and result of tasks of many trials, each of which is a job and is stored here."""
        from .tuning.optuna_extra import quiet_optuna

        assert self._engine is not None
        pool = ThreadPoolExecutor(Jobs.of(self.jobs).count)
        with quiet_optuna():  # in this thread, too: it changes settings of the process
            try:
                index_of = {pool.submit(work, self, *task): index for index, task in enumerate(tasks)}
                for future in as_completed(index_of):
                    yield index_of[future], future.result()
            except BaseException:
                self._engine.stop()
                raise
            finally:
                pool.shutdown(cancel_futures=True)

    def _from_afar(self, trials: Sequence[Trial]) -> Iterator[tuple[int, TrialResult]]:
        """Yield the index and result of trials: of finished ones, then of others as their files arrive."""
        assert self._engine is not None
        jobs: dict[int, tuple[Trial]] = {}
        for index, trial in enumerate(trials):
            home = trial_folder(trial, self.problem, self.folder, self.digest)
            if (home / TRIAL_FILE).exists():
                yield index, read_trial(trial, self.problem, home, reused=True)
            else:
                jobs[index] = (trial,)
        for index, parcel in self._engine.results(_packed, jobs):
            yield (
                index,
                store_parcel(
                    parcel,
                    trials[index],
                    self.problem,
                    self.folder,
                    digest=self.digest,
                    tracked=self.tracked,
                ),
            )

    def one(self, trial: Trial) -> TrialResult:
        """Run a trial, or read it.

        Args:
            trial: the trial.
        """
        if self._engine is not None and not self._engine.shares_folder:
            ((_, result),) = self._from_afar([trial])
            return result
        return run_trial(trial, self.problem, self.folder, digest=self.digest, tracked=self.tracked)

    def _advance(self, result: TrialResult, trials: int) -> None:
        self._done += trials
        if self.progress is not None:
            reused = " (reused)" if result.reused else ""
            what = f"{result.trial.method}, seed {result.trial.seed}{reused}"
            self.progress(self._done, self._total, what)


def _one_trial(sweep: Sweep, trial: Trial) -> TrialResult:
    return sweep.one(trial)


def _packed(sweep: Sweep, trial: Trial) -> TrialParcel:
    folder = None if sweep.tracked is None else str(sweep.tracked.folder)
    return packed_trial(trial, sweep.problem, sweep.digest, folder)


def _best_of(
    sweep: Sweep, method: Method, case: Case | None, trials: int, starts: Sequence[Trial]
) -> TrialResult:
    from .tuning.budget_search import best_of_budget  # needs Optuna

    return best_of_budget(method, case, trials, starts, sweep.one)


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
