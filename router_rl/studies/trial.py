"""Trials: one fit of a method, evaluated and cached on disk. Comparisons and runs consist of trials.

A trial's folder is named by a digest of everything that its result depends on: the problem's data and
options, the method, its hyperparameters, the case and the seed. `trial.json` is written last, so that a
killed process loses only the current trial, which resumes from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experts.io.escaping import file_name

from ..exports.save_policy import save_policy
from ..methods.method import Run
from ..methods.registry import find_method
from ..methods.training_loop import Callback, CurvePoint
from ..problems.measure import Measurement
from ..problems.problem import Case, Problem
from .tracking.tracked import Tracked
from .trial_figures import choice_calibration, learning_curve
from .trial_files import TRIAL_FILE, read_trial_files, write_trial_files
from .trial_fit import JOURNAL, Trial, fitted_trial

__all__ = ["CaseResult", "Trial", "TrialResult", "read_trial", "run_trial", "trial_folder"]

_LEARNED = ("rl", "gate")  # families that are checked for collapse


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseResult:
    """Results of a fitted policy in one case.

    Attributes:
        case: the case.
        validation: means on the tuning rows, by name.
        validation_shares: [N] float64, each expert's share of the decisions on them; None if unknown.
        train_utility: mean utility on training rows; None if not evaluated.
        test: measurement on the test split.
    """

    case: Case
    validation: Mapping[str, float]
    validation_shares: np.ndarray | None
    train_utility: float | None
    test: Measurement


@dataclass(frozen=True, kw_only=True, eq=False)
class TrialResult:
    """Result of a trial.

    Attributes:
        trial: the trial.
        folder: its folder; `router/` in it can be loaded, if the policy can be exported.
        cases: one result per case that the fit serves.
        seconds: duration of the fit.
        curve: validation results of the fit.
        messages: messages of the method about the result.
        facts: facts of the method about the result, such as `equals_start`.
        figures: data of the policy's figures, as JSON; only for seed 0 in the middle case.
        reused: whether it was read from an earlier run.
    """

    trial: Trial
    folder: Path
    cases: tuple[CaseResult, ...]
    seconds: float
    curve: tuple[CurvePoint, ...] = ()
    messages: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[dict[str, Any], ...] = ()
    reused: bool = False

    @property
    def router(self) -> Path | None:
        """Folder of the saved router or policy, if there is one."""
        folder = self.folder / "router"
        return folder if folder.exists() else None

    @property
    def validation_utility(self) -> float:
        """Mean validation utility over the cases."""
        return float(np.mean([each.validation["utility"] for each in self.cases]))


def run_trial(
    trial: Trial,
    problem: Problem,
    folder: Path,
    *,
    digest: str | None = None,
    tracked: Tracked | None = None,
    callback: Callback | None = None,
) -> TrialResult:
    """Fit, evaluate and save a trial, or read it if it is already saved.

    Args:
        trial: the trial.
        problem: the problem, with all its cases.
        folder: common folder of all trials.
        digest: `problem.digest()`, if already computed.
        tracked: where it is logged; None: nowhere.
        callback: is called with every snapshot of the fit.
    """
    digest = digest or problem.digest()
    home = trial_folder(trial, problem, folder, digest)
    reused = (home / TRIAL_FILE).exists()
    if not reused:
        _fit(trial, problem, home, trial.identity(problem, digest), tracked, callback)
    (home / JOURNAL).unlink(missing_ok=True)
    return read_trial(trial, problem, home, reused=reused)


def trial_folder(trial: Trial, problem: Problem, folder: Path, digest: str) -> Path:
    """Return the folder of a trial; the trial is finished if it holds `trial.json`.

    Args:
        trial: the trial.
        problem: the problem, with all its cases.
        folder: common folder of all trials.
        digest: `problem.digest()`.
    """
    identity = trial.identity(problem, digest)
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return folder / f"{file_name(trial.method)}-{key}"


def _fit(
    trial: Trial,
    problem: Problem,
    home: Path,
    identity: dict[str, Any],
    tracked: Tracked | None,
    callback: Callback | None,
) -> None:
    learned = find_method(problem.name, trial.method).family in _LEARNED
    with fitted_trial(trial, problem, home, identity, tracked=tracked, callback=callback) as fit:
        policy = fit.policy
        results = [_measure(policy, problem, case, trial.seed, learned) for case in trial.cases(problem)]
        save_policy(policy, home / "router", rows=problem.parity_rows())
        if fit.tracking is not None:
            means = {each.case.label: (each.test.means(), each.validation) for each in results}
            fit.tracking.finish(
                {case: {"test": test, "validation": own} for case, (test, own) in means.items()}
            )
    figures = _figures(policy, problem, trial, fit.curve, learned)
    _write(home, identity, trial, results, fit.seconds, fit.curve, fit.run, figures)
    fit.checkpoint.clear()


def _measure(policy: Any, problem: Problem, case: Case, seed: int, learned: bool) -> CaseResult:
    validation = problem.evaluate(policy, "tuning", case, seed=seed)
    train_utility = None
    if learned and problem.scores_training_rows:
        train_utility = problem.evaluate(policy, "train", case, seed=seed).means()["utility"]
    return CaseResult(
        case=case,
        validation=validation.means(),
        validation_shares=None if validation.share is None else validation.shares,
        train_utility=train_utility,
        test=problem.evaluate(policy, "test", case, seed=seed),
    )


def _figures(
    policy: Any, problem: Problem, trial: Trial, curve: tuple[CurvePoint, ...], learned: bool
) -> list[dict[str, Any]]:
    """Return the figures of the middle case for the first seed, as JSON."""
    middle = problem.cases[(len(problem.cases) - 1) // 2]
    if trial.seed != 0 or middle not in trial.cases(problem):
        return []
    figures = [*problem.figures(policy, middle), *learning_curve(curve, middle)]
    if learned:
        figures += choice_calibration(policy, problem, middle)
    return [figure.to_json() for figure in figures]


def _write(
    home: Path,
    identity: dict[str, Any],
    trial: Trial,
    results: list[CaseResult],
    seconds: float,
    curve: tuple[CurvePoint, ...],
    run: Run,
    figures: list[dict[str, Any]],
) -> None:
    arrays: dict[str, np.ndarray] = {}
    cases: list[dict[str, Any]] = []
    for index, result in enumerate(results):
        test = result.test
        own = {"utility": test.utility} | {f"parts/{name}": part for name, part in test.parts.items()}
        if test.share is not None:
            own["share"] = test.share
        arrays |= {f"{index}/{name}": np.ascontiguousarray(part) for name, part in own.items()}
        shares = result.validation_shares
        cases.append(
            {
                "label": result.case.label,
                "validation": dict(result.validation),
                "validation_shares": None if shares is None else [float(share) for share in shares],
                "train_utility": result.train_utility,
                "facts": dict(test.facts),
            }
        )
    facts = {
        **identity,
        "number": trial.number,
        "results": cases,
        "curve": [list(point) for point in curve],
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "messages": run.messages[-1:],
        "facts": run.facts,
        "figures": figures,
    }
    write_trial_files(home, facts, arrays)


def read_trial(trial: Trial, problem: Problem, home: Path, *, reused: bool) -> TrialResult:
    """Return a finished trial.

    Args:
        trial: the trial.
        problem: the problem, with all its cases.
        home: as `trial_folder` returns it.
        reused: whether it was finished before this run.

    Raises:
        InputError: a file is missing or damaged, or is of other cases.
    """
    kept, arrays = read_trial_files(home, [case.label for case in trial.cases(problem)])
    results: list[CaseResult] = []
    for index, (case, facts) in enumerate(zip(trial.cases(problem), kept["results"], strict=True)):
        own = {
            name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{index}/")
        }
        shares = facts["validation_shares"]
        results.append(
            CaseResult(
                case=case,
                validation=facts["validation"],
                validation_shares=None if shares is None else np.array(shares),
                train_utility=facts["train_utility"],
                test=Measurement(
                    utility=own["utility"],
                    parts={
                        name.partition("/")[2]: part
                        for name, part in own.items()
                        if name.startswith("parts/")
                    },
                    facts=facts["facts"],
                    share=own.get("share"),
                ),
            )
        )
    return TrialResult(
        trial=trial,
        folder=home,
        cases=tuple(results),
        seconds=kept["seconds"],
        curve=tuple(CurvePoint(*point) for point in kept["curve"]),
        messages=tuple(kept["messages"]),
        facts=kept.get("facts", {}),
        figures=tuple(kept["figures"]),
        reused=reused,
    )
