"""Compare methods on any problem: same data, trials and seeds for all, always with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experts import InputError
from experts.io.atomic import write_json
from experts.io.owned_folder import claim_folder

from ..methods.budget import amortizes, check_budget
from ..methods.fit import check_method
from ..methods.method import Bound, Method
from ..methods.registry import find_method, methods_of
from ..problems.problem import Case, Problem
from ..reports.html_report import write_report
from .collapse import Facts, Reference, diagnose
from .engines.jobs import Jobs
from .entry import Entry
from .operating_target import Target
from .results import assemble
from .sweep import Progress, Sweep
from .tracking.comparison_results import comparison_artefacts, comparison_summary
from .tracking.run_identity import TRACKING_FILE
from .tracking.tracked import Tracked
from .trial import CaseResult, TrialResult
from .tuning.optuna_extra import require_optuna
from .tuning.tune_options import TuneBudget

__all__ = ["Progress", "Study", "compare"]

_WRITTEN = ("results.json", "report.html", "config.yaml", "tensorboard", TRACKING_FILE, "trials")


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """A finished comparison.

    Attributes:
        results: content of `results.json`, schema 2.
        folder: output folder; None if nothing was saved.
        reused: number of trials that were read from an earlier run.
    """

    results: dict[str, Any]
    folder: Path | None
    reused: int

    @property
    def recommendation(self) -> str:
        """Which method to ship, in one sentence."""
        return str(self.results["recommendation"]["sentence"])

    @property
    def summary(self) -> list[dict[str, Any]]:
        """One row per method and case, with intervals and paired differences."""
        return list(self.results["summary"])


def compare(
    problem: Problem,
    methods: Sequence[str] | None = None,
    *,
    seeds: int = 5,
    n_trials: int | TuneBudget = 4,
    jobs: Jobs | int = 1,
    out: Path | str | Tracked | None = None,
    target: Target | None = None,
    progress: Progress | None = None,
) -> Study:
    """Fit every method in every case with every seed, and evaluate them on the test split.

    Hyperparameters are selected once per method and case, by mean utility on the tuning rows (half of the
    validation rows, which no fit reads) with the first seed, with the same number of trials for every
    method. The problem's bounds, constant baselines and strong simple rules are always included.

    Args:
        problem: the problem, with one or more cases.
        methods: names of methods, see `train_router.py list`; all methods of the problem if None.
        seeds: number of training seeds (0, 1, ...).
        n_trials: number of hyperparameter settings tried per method and case. `TuneBudget(20)` searches with
            20 trials of Optuna's TPESampler each, in the ranges that the method's settings span.
        jobs: number of processes; `Jobs(8, "ray")` runs the trials on a Ray cluster.
        out: folder for `results.json`, `report.html`, TensorBoard logs and finished trials; an interrupted
            comparison resumes from it. `Tracked(folder, "mlflow")` logs to other trackers. None saves
            nothing.
        target: limits of the recommended operating point, such as a budget; None recommends by utility.
        progress: is called with (trials done, total trials, what was done last).

    Returns:
        the study.

    Raises:
        InputError: a name is unknown, a value is invalid, the folder cannot be written, or it holds files
            of the same names that no comparison wrote.
    """
    searches = isinstance(n_trials, TuneBudget)
    tried = n_trials.trials if isinstance(n_trials, TuneBudget) else n_trials
    if searches:
        require_optuna("tune_budget", tried)
    for name, value in (("seeds", seeds), ("n_trials", tried)):
        if value < 1:
            raise InputError(name, value, "is below 1", "use 1 or more")
    jobs = Jobs.of(jobs)
    _check_target(problem, target)
    selected = methods_of(problem, methods)
    bounds = [method for method in selected if isinstance(method, Bound)]
    fitted, notes = _supported([method for method in selected if isinstance(method, Method)], problem)
    for case in problem.cases:
        if case.objective is not None:
            check_budget(fitted, case.objective)
    tracked = None if out is None else Tracked.of(out)
    folder = None if tracked is None else claim_folder(tracked.folder, "comparison", _WRITTEN)
    digest, names = problem.digest(), ", ".join(method.name for method in selected)
    with (
        nullcontext(folder) if folder is not None else TemporaryDirectory() as home,
        tracked.whole("comparison", problem, digest, names) if tracked else nullcontext() as finish,
    ):
        sweep = Sweep(
            problem=problem,
            folder=Path(home) / "trials",
            tracked=tracked,
            digest=digest,
            jobs=jobs,
            seeds=seeds,
            n_trials=n_trials,
            progress=progress,
        )
        trials = sweep.run(fitted)
        references = {case.label: Reference.of(problem, case) for case in problem.cases}
        entries = [
            _entry(trial, result, problem, references[result.case.label])
            for trial in trials
            for result in trial.cases
        ]
        for bound in bounds:
            for case in problem.cases:
                entries += _bound_entries(bound, problem, case, seeds)
        shared = [method.name for method in fitted if amortizes(method, problem)]
        if shared and len(problem.cases) > 1:
            notes.append(
                f"{', '.join(shared)}: one fit per seed serves all cases; its fit time is divided among them"
            )
        if searches:
            notes.append(
                f"hyperparameters: {tried} trials of Optuna's TPESampler (seed 0) for every method and case; "
                "a method without hyperparameters to search has one"
            )
        results = assemble(entries, problem, n_trials=tried, notes=notes, target=target, digest=digest)
        if folder is not None:
            write_json(folder / "results.json", results)
            write_report(results, folder / "report.html")
        if folder is not None and finish is not None:
            finish(comparison_summary(results), comparison_artefacts(results, folder))
    return Study(results=results, folder=folder, reused=sum(trial.reused for trial in trials))


def _check_target(problem: Problem, target: Target | None) -> None:
    """Raise InputError if a problem has no cost that a target could limit."""
    if target is None or not target:
        return
    name, value = next(iter(target.to_json().items()))
    if problem.table is None or getattr(problem, "scale", None) is None or problem.cases[0].objective is None:
        raise InputError(name, value, f"{problem.name} has no cost per query", "leave it out")
    unit = problem.table.cost_unit
    if target.budget_usd is not None and unit != "usd":
        fix = "import the table with --cost-unit usd, or use --objective.budget"
        raise InputError("budget_usd", target.budget_usd, f"the costs of the table are in {unit}", fix)


def _supported(methods: Sequence[Method], problem: Problem) -> tuple[list[Method], list[str]]:
    """Return the methods that can be fitted to a problem, and a note on each of the others."""
    reasons = {method.name: check_method(method, problem) for method in methods}
    notes = [f"{name} {reason}: left out" for name, reason in reasons.items() if reason is not None]
    return [method for method in methods if reasons[method.name] is None], notes


def _entry(trial: TrialResult, result: CaseResult, problem: Problem, reference: Reference) -> Entry:
    method = find_method(problem.name, trial.trial.method)
    assert isinstance(method, Method)
    collapse = None
    if method.family in ("rl", "gate"):
        facts = Facts(
            method=method.name,
            hyperparameters=asdict(trial.trial.hyperparameters),
            shares=result.validation_shares,
            utility=result.validation["utility"],
            train_utility=result.train_utility,
            curve=trial.curve,
        )
        collapse = diagnose(facts, reference)
    middle = problem.cases[(len(problem.cases) - 1) // 2].label
    return Entry(
        method=method.name,
        family=method.family,
        case=result.case,
        seed=trial.trial.seed,
        hyperparameters=trial.trial.hyperparameters,
        validation=result.validation,
        test=result.test,
        seconds=trial.seconds / len(trial.cases),
        folder=trial.folder,
        router=trial.router,
        full_information=method.full_information,
        extra_inputs=tuple(name for name in method.needs if name not in problem.inputs),
        collapse=collapse,
        figures=trial.figures if result.case.label == middle else (),
        equals_start=trial.facts.get("equals_start"),
    )


def _bound_entries(bound: Bound, problem: Problem, case: Case, seeds: int) -> list[Entry]:
    """Return the entries of a bound, equal for every seed."""
    part = problem.at(case)
    validation, test = (bound.measure(part, case, split) for split in ("tuning", "test"))
    return [
        Entry(
            method=bound.name,
            family="bound",
            case=case,
            seed=seed,
            hyperparameters=None,
            validation=validation.means(),
            test=test,
            seconds=0.0,
        )
        for seed in range(seeds)
    ]
