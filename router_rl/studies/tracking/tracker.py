"""The protocol of an experiment tracker, and several trackers as one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = ["Job", "TrackedRun", "Tracker", "Trackers", "started"]

Job = Literal["trial", "run", "comparison"]


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a run when it starts.

    Attributes:
        job: a trial, or the training run or comparison that the trials belong to.
        name: of a trial such as `ppo/c=0.1/seed=0/trial=2`, otherwise the name of the folder.
        folder: folder of the training run or comparison.
        key: identifies the trial within the folder; empty for the whole.
        config: hyperparameters and other values by name.
        tags: problem, method, digest of the data, and version, by name.
    """

    job: Job
    name: str
    folder: Path
    key: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """Receives one run: `start`, any number of `log`, then `finish` or `stop`.

    A run with the folder and the key of an earlier one replaces it: the earlier one was interrupted.
    """

    def start(self, run: TrackedRun) -> None:
        """Begin a run.

        Raises:
            InputError: the tracker cannot be reached.
        """
        ...

    def log(
        self, step: int, scalars: Mapping[str, float], counts: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """Log values by name at a step.

        Args:
            step: does not fall from call to call.
            scalars: numbers.
            counts: histograms: how often each of the values 0, 1, ... occurs.
        """
        ...

    def finish(self, summary: Mapping[str, float], artefacts: Sequence[Path]) -> None:
        """End a finished run.

        Args:
            summary: final results by name.
            artefacts: files and folders to keep with the run.
        """
        ...

    def stop(self) -> None:
        """End an interrupted run; the same command replaces or continues it."""
        ...


class Trackers:
    """Several trackers as one.

    Args:
        each: the trackers; there may be none.
    """

    def __init__(self, each: Sequence[Tracker]) -> None:
        self._each = each

    def start(self, run: TrackedRun) -> None:
        """Begin a run in every tracker."""
        for number, tracker in enumerate(self._each):
            try:
                tracker.start(run)
            except BaseException:
                for earlier in self._each[:number]:
                    earlier.stop()
                raise

    def log(
        self, step: int, scalars: Mapping[str, float], counts: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """Log values in every tracker."""
        for tracker in self._each:
            tracker.log(step, scalars, counts)

    def finish(self, summary: Mapping[str, float], artefacts: Sequence[Path]) -> None:
        """End a finished run in every tracker."""
        for tracker in self._each:
            tracker.finish(summary, artefacts)

    def stop(self) -> None:
        """End an interrupted run in every tracker."""
        for tracker in self._each:
            tracker.stop()


Finish = Callable[[Mapping[str, float], Sequence[Path]], None]


@contextmanager
def started(tracker: Tracker, run: TrackedRun) -> Generator[Finish, None, None]:
    """Start a run, and stop it unless the function that is yielded finishes it.

    Args:
        tracker: the tracker.
        run: the run.
    """
    tracker.start(run)
    finished = False

    def finish(summary: Mapping[str, float], artefacts: Sequence[Path]) -> None:
        nonlocal finished
        tracker.finish(summary, artefacts)
        finished = True

    try:
        yield finish
    finally:
        if not finished:
            tracker.stop()
