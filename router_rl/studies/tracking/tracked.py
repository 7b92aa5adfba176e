"""A folder of results whose runs are logged to experiment trackers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...problems.problem import Problem
from .registry import check_trackers, new_trackers
from .tracked_values import cost_tag_of
from .tracker import Finish, Job, TrackedRun, Tracker, started
from .trial_log import TrialLog

__all__ = ["Tracked", "tags_of"]


@dataclass(frozen=True)
class Tracked:
    """A folder to write to, and the trackers that its runs are logged to.

    Args:
        folder: folder of a training run or comparison.
        track: names of trackers (tensorboard, mlflow, wandb), separated by commas or in a list; empty: none.

    Raises:
        InputError: a tracker is unknown, or its library is not installed.

    >>> Tracked("runs/study", "tensorboard").names
    ('tensorboard',)
    """

    folder: Path | str
    track: str | Sequence[str] = "tensorboard"

    def __post_init__(self) -> None:
        check_trackers(self.names)

    @classmethod
    def of(cls, out: Tracked | Path | str) -> Tracked:
        """Return a folder as it is, with TensorBoard if it names no trackers."""
        return out if isinstance(out, Tracked) else cls(out)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the trackers."""
        names = self.track.split(",") if isinstance(self.track, str) else self.track
        return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))

    def whole(self, job: Job, problem: Problem, digest: str, method: str) -> AbstractContextManager[Finish]:
        """Start the run that the trials belong to; the function that is yielded finishes it.

        Args:
            job: `run` or `comparison`.
            problem: the problem.
            digest: of its data and options.
            method: name of the method, or of all methods.
        """
        run = TrackedRun(
            job=job,
            name=Path(self.folder).resolve().name,
            folder=Path(self.folder),
            tags=tags_of(problem, digest, method),
        )
        return started(self.trackers(), run)

    def trial(self, run: TrackedRun, problem: Problem, journal: Path | None = None) -> TrialLog:
        """Return the log of a trial, a context manager.

        Args:
            run: the trial.
            problem: the problem.
            journal: file beside the trial's checkpoint.
        """
        return TrialLog(self.trackers(), run, journal=journal, cost=cost_tag_of(problem))

    def trackers(self) -> Tracker:
        """Return new trackers as one."""
        return new_trackers(self.names)

    def log(self, name: str, problem: Problem, **config: Any) -> TrialLog:
        """Return a callback for `fit`, as a context manager: `with tracked.log(...) as callback`.

        Args:
            name: of the run; one with the name of an earlier run in this folder replaces it.
            problem: the problem.
            config: values to log with the run.
        """
        tags = tags_of(problem, problem.digest(), str(config.get("method", "")))
        run = TrackedRun(job="trial", name=name, folder=Path(self.folder), key=name, config=config, tags=tags)
        return self.trial(run, problem)


def tags_of(problem: Problem, digest: str, method: str) -> dict[str, str]:
    """Return the tags of a run.

    Args:
        problem: the problem.
        digest: of its data and options.
        method: name of the method, or of several.
    """
    card = problem.describe()
    tags = {"problem": problem.name, "method": method, "digest": digest, "table": card.source}
    return {**tags, "router_rl_version": version("router-rl")}
