"""`train`: train one method on one problem."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Count, Seed

from ..problems.registry import find_problem
from ..reports.terminal import evaluation_view, progress_of
from .command import Command
from .data_options import ComparedObjective, DataOptions
from .problem_options import build_problem, default_method, train_groups
from .values import trackers_in

__all__ = ["COMMAND", "TrainingOptions", "train"]

err = Console(stderr=True)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(CheckedOptions):
    """The method, and how it is trained.

    Attributes:
        method: name of the method, see `list`; null: ppo for routing, else the problem's first.
            `--method NAME --help` lists its hyperparameters, the options --method.FIELD.
        n_trials: number of hyperparameter settings, selected on validation.
        seed: random seed.
        track: comma-separated trackers of the trials: tensorboard, mlflow, wandb; none: no tracker.
    """

    method: str | None = None
    n_trials: Count = 1
    seed: Seed = 0
    track: list[str] | str = "tensorboard"


def train(
    *,
    data: DataOptions,
    out: Path,
    training: TrainingOptions,
    problem: Any,
    objective: ComparedObjective,
    hyperparameters: Any = None,
) -> dict[str, Any]:
    """Train one method on one problem; the same command resumes an interrupted run.

    Args:
        data: the problem and its table.
        out: the run folder.
        training: the method, trials and seed.
        problem: options of the problem.
        objective: the objective.
        hyperparameters: hyperparameters of the method; setting any disables the search.
    """
    from ..methods.training_loop import Snapshot
    from ..studies.collapse import Reference, live
    from ..studies.runs import train_run
    from ..studies.tracking.tracked import Tracked

    tracked = Tracked(out, trackers_in(training.track))
    instance = build_problem(data, problem, objective, find_problem(data.env).trained_weights)
    method = training.method or default_method(data.env)
    changed = None if hyperparameters is None else _changed(hyperparameters)
    # Under a budget the search evaluates routers that are discarded: no warnings for those.
    first = instance.cases[0]
    checked = len(instance.cases) == 1 and (first.objective is None or first.objective.budget is None)
    reference = Reference.of(instance, first, "validation") if checked else None
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
            instance,
            method,
            tracked,
            seed=training.seed,
            n_trials=training.n_trials,
            hyperparameters=changed,
            callback=callback,
        )
    return {"run": str(out), **run.facts}


def _changed(hyperparameters: Any) -> dict[str, Any] | None:
    """Return the fields that differ from the defaults, or None."""
    default = asdict(type(hyperparameters)())
    changed = {name: value for name, value in asdict(hyperparameters).items() if value != default[name]}
    return changed or None


COMMAND = Command(run=train, view=evaluation_view, groups=train_groups, keeps_config=True)
