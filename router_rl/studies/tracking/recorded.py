"""What a trial would log to trackers, recorded where it runs and logged where its results are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .registry import new_trackers
from .tracked import Tracked
from .tracker import TrackedRun, Tracker

__all__ = ["Call", "Recorded", "log_recorded"]

Call = tuple[str, tuple[Any, ...]]
"""Name and arguments of a call of a tracker."""


@dataclass(frozen=True)
class Recorded(Tracked):
    """A folder of another machine whose runs are recorded; nothing is written to it.

    Attributes:
        calls: name and arguments of each call of a tracker.
    """

    track: str | Sequence[str] = ()
    calls: list[Call] = field(default_factory=list)

    def trackers(self) -> Tracker:
        """Return a tracker that records."""
        return _Recorder(self.calls)


def log_recorded(calls: Iterable[Call], tracked: Tracked | None) -> None:
    """Log a trial that was recorded elsewhere.

    Args:
        calls: of `Recorded`.
        tracked: where it is logged; None: nowhere.
    """
    if tracked is None:
        return
    tracker = new_trackers(tracked.names)
    ended = True
    try:
        for name, arguments in calls:
            getattr(tracker, name)(*arguments)
            ended = name in ("finish", "stop")
    finally:
        if not ended:
            tracker.stop()


class _Recorder:
    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls

    def start(self, run: TrackedRun) -> None:
        self._calls.append(("start", (run,)))

    def log(
        self, step: int, scalars: Mapping[str, float], counts: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self._calls.append(("log", (step, scalars, counts)))

    def finish(self, summary: Mapping[str, float], artefacts: Sequence[Path]) -> None:
        self._calls.append(("finish", (summary, artefacts)))

    def stop(self) -> None:
        self._calls.append(("stop", ()))
