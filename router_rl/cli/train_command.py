"""`train`: one method on one problem."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ..methods.training_loop import Snapshot
from ..problems.registry import find_problem
from ..reports.terminal import evaluation_view, progress_of
from ..studies.collapse import Reference, live
from ..studies.runs import train_run
from .command import Command
from .problem_options import ComparedObjective, build_problem, default_method, train_groups

__all__ = ["COMMAND", "train"]

err = Console(stderr=True)


def train(
    *,
    table: str | None = None,
    out: Path,
    env: str = "routing",
    problem: Any,
    objective: ComparedObjective,
    method: str | None = None,
    hyperparameters: Any = None,
    n_trials: int = 1,
    seed: int = 0,
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Train one method on one problem; an interrupted run resumes when the same command is given again.

    Args:
        table: a Parquet file or a source's name, see `list`.
        out: the run folder.
        env: the problem, see `list`.
        problem: options of the problem.
        objective: what to maximise.
        method: see `list`; null: ppo for routing, else the problem's first.
        hyperparameters: of the method; with any, there is one trial.
        n_trials: hyperparameter settings tried; the best on validation is kept.
        seed: of everything random.
        allow_leakage: accept a prompt that stands in two splits; every output then says so.
    """
    kind = find_problem(env)
    posed = build_problem(env, table, problem, objective, kind.trained_weights, allow_leakage=allow_leakage)
    method = method or default_method(env)
    changed = None if hyperparameters is None else _changed(hyperparameters)
    # Within a budget the search measures routers that are not kept: no warnings meanwhile.
    first = posed.cases[0]
    watched = len(posed.cases) == 1 and (first.objective is None or first.objective.budget is None)
    reference = Reference.of(posed, first) if watched else None
    with progress_of("training", err) as progress:

        def callback(snapshot: Snapshot) -> None:
            message = snapshot.message
            if snapshot.validation is not None:
                utility = snapshot.validation.means()["utility"]
                message = f"validation utility {utility:.4f}, best {snapshot.best:.4f}"
                warning = "" if reference is None else live(snapshot, reference)
                message = f"{message}; {warning}" if warning else message
            progress(snapshot.step, snapshot.total, message)

        run = train_run(
            posed, method, out, seed=seed, n_trials=n_trials, hyperparameters=changed, callback=callback
        )
    return {"run": str(out), **run.facts}


def _changed(hyperparameters: Any) -> dict[str, Any] | None:
    """The fields that differ from the defaults; None where none does."""
    default = asdict(type(hyperparameters)())
    changed = {name: value for name, value in asdict(hyperparameters).items() if value != default[name]}
    return changed or None


COMMAND = Command(run=train, view=evaluation_view, groups=train_groups, keeps_config=True)
