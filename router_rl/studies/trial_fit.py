"""A trial and its fit: one method with hyperparameters and a seed; an interrupted fit resumes."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experts.io.escaping import file_name

from ..methods.budget import fit_method
from ..methods.checkpoint import Checkpoint
from ..methods.method import Method, Run
from ..methods.registry import find_method
from ..methods.training_loop import Callback, CurvePoint, Snapshot
from ..problems.options import as_json
from ..problems.problem import Case, Problem
from .tracking.tracked import Tracked, tags_of
from .tracking.tracker import TrackedRun
from .tracking.trial_log import TrialLog

__all__ = ["JOURNAL", "Trial", "TrialFit", "case_as_json", "fitted_trial"]

JOURNAL = "logged.jsonl"
"""File of what trackers got, until the trial is finished."""

_SCHEMA_VERSION = 7


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One fit: a method with hyperparameters and a seed, in one case or, if it amortizes, in all cases.

    Attributes:
        method: name of the method.
        hyperparameters: an instance of `Method.hyperparameters`.
        case: the case; None if one fit serves all cases.
        seed: random seed.
        number: number of the hyperparameter setting, from 0; it names the run of trackers only.
    """

    method: str
    hyperparameters: Any
    case: Case | None
    seed: int
    number: int = 0

    def cases(self, problem: Problem) -> tuple[Case, ...]:
        """Return the cases that the fit serves."""
        return problem.cases if self.case is None else (self.case,)

    def identity(self, problem: Problem, digest: str) -> dict[str, Any]:
        """Return everything that the result depends on, as JSON.

        Args:
            problem: the problem.
            digest: `problem.digest()`.
        """
        return {
            "schema_version": _SCHEMA_VERSION,
            "problem": problem.name,
            "digest": digest,
            "method": self.method,
            "hyperparameters": as_json(self.hyperparameters),
            "cases": [case_as_json(case) for case in self.cases(problem)],
            "seed": self.seed,
        }

    def tag(self, problem: Problem) -> str:
        """Return the name of its run in trackers, such as `ppo/c=0.1/seed=0/trial=2`."""
        case = "all" if self.case is None else _short(self.case, problem)
        return f"{file_name(self.method)}/{file_name(case)}/seed={self.seed}/trial={self.number}"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrialFit:
    """A fit of a trial that has ended.

    Attributes:
        policy: the fitted policy.
        run: the run, with the messages and facts of the method.
        seconds: duration of the fit.
        curve: validation results of the fit.
        checkpoint: to clear once the results are kept.
        tracking: the trial's log, if there is one.
    """

    policy: Any
    run: Run
    seconds: float
    curve: tuple[CurvePoint, ...]
    checkpoint: Checkpoint
    tracking: TrialLog | None


@contextmanager
def fitted_trial(
    trial: Trial,
    problem: Problem,
    home: Path,
    identity: dict[str, Any],
    *,
    tracked: Tracked | None = None,
    callback: Callback | None = None,
) -> Generator[TrialFit, None, None]:
    """Fit a trial's policy, and keep its log open until the context ends; an interrupted fit resumes.

    Args:
        trial: the trial.
        problem: the problem, with all its cases.
        home: folder of the checkpoint.
        identity: as `Trial.identity` returns it.
        tracked: where it is logged; None: nowhere.
        callback: is called with every snapshot of the fit.
    """
    method = find_method(problem.name, trial.method)
    assert isinstance(method, Method)
    home.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(home / "checkpoint.safetensors", identity)
    part = problem if trial.case is None else problem.at(trial.case)
    # Methods without a search space have no hyperparameters to compare in a tracker.
    if tracked is None or not method.space:
        tracker = nullcontext()
    else:
        tracker = tracked.trial(
            _tracked_run(trial, problem, home, identity, tracked), problem, home / JOURNAL
        )
    with tracker as tracking:
        log = _Log([each for each in (tracking, callback) if each is not None])
        run = Run(seed=trial.seed, callback=log, checkpoint=checkpoint)
        began = time.perf_counter()
        policy = part.finish(fit_method(method, part, trial.hyperparameters, run))
        seconds = time.perf_counter() - began
        yield TrialFit(
            policy=policy,
            run=run,
            seconds=seconds,
            curve=log.curve,
            checkpoint=checkpoint,
            tracking=tracking,
        )


@dataclass
class _Log:
    """Callback that keeps the curve of a fit and forwards snapshots."""

    callbacks: list[Callback]
    curve: tuple[CurvePoint, ...] = field(default=())

    def __call__(self, snapshot: Snapshot) -> None:
        self.curve = snapshot.curve or self.curve
        for callback in self.callbacks:
            callback(snapshot)


def _tracked_run(
    trial: Trial, problem: Problem, home: Path, identity: dict[str, Any], tracked: Tracked
) -> TrackedRun:
    values = {"method": trial.method, "seed": trial.seed, "trial": trial.number}
    return TrackedRun(
        job="trial",
        name=trial.tag(problem),
        folder=Path(tracked.folder),
        key=home.name,
        config={**values, **trial.cases(problem)[0].values, **asdict(trial.hyperparameters)},
        tags=tags_of(problem, identity["digest"], trial.method),
    )


def case_as_json(case: Case) -> dict[str, Any]:
    """Return what a result in a case depends on.

    Args:
        case: the case.
    """
    objective = None if case.objective is None else asdict(case.objective)
    if objective is not None:
        objective = {name: value for name, value in objective.items() if value is not None}
    return {"values": dict(case.values), "objective": objective}


def _short(case: Case, problem: Problem) -> str:
    """Return the values of a case that differ between cases, such as `c=0.1`."""
    names = [name for name in case.values if len({each.values.get(name) for each in problem.cases}) > 1]
    names = names or list(case.values)[:1]
    short = {"compute_weight": "c", "load_weight": "load_weight"}
    return ",".join(f"{short.get(name, name)}={case.values[name]:g}" for name in names)
