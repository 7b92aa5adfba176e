"""The log of one trial: each snapshot once, in every tracker, also if the fit is interrupted and resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from ...methods.training_loop import Snapshot
from .tracked_values import CostTag, Logged, Results, logged, summary_of
from .tracker import TrackedRun, Tracker

__all__ = ["TrialLog"]


class TrialLog:
    """Callback of a fit that logs its snapshots, as a context manager.

    A fit that resumes repeats its snapshots since the checkpoint, in a new run of each tracker. The journal
    keeps what was logged, so that the new run begins with what came before.

    Args:
        tracker: a tracker that is not started.
        run: the run.
        journal: file beside the checkpoint; None if the fit does not resume.
        cost: how compute is logged in its unit; None: normalised only.
    """

    def __init__(
        self, tracker: Tracker, run: TrackedRun, *, journal: Path | None = None, cost: CostTag | None = None
    ) -> None:
        self._tracker = tracker
        self._run = run
        self._journal = journal
        self._cost = cost
        self._began = self._finished = False

    def __enter__(self) -> TrialLog:
        self._tracker.start(self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not self._finished:
            self._tracker.stop()
        elif not self._finished:
            self._tracker.finish({}, ())

    def finish(self, results: Results) -> None:
        """Log the final results and end the run.

        Args:
            results: see `summary_of`.
        """
        self._tracker.finish(summary_of(results, self._cost), ())
        self._finished = True

    def __call__(self, snapshot: Snapshot) -> None:
        """Log a snapshot."""
        if not self._began:
            self._began = True
            self._replay(snapshot.step)
        values = logged(snapshot, self._cost)
        self._log(values)
        if self._journal is not None:
            with self._journal.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"at": snapshot.step, **asdict(values)}) + "\n")

    def _replay(self, before: int) -> None:
        """Log what the journal has of earlier steps, and drop the rest of it.

        Args:
            before: step of the first snapshot, in the method's unit.
        """
        if self._journal is None or not self._journal.exists():
            return
        kept: list[str] = []
        for line in self._journal.read_text(encoding="utf-8").splitlines():
            entry = _entry(line)
            if entry is None or entry["at"] >= before:
                break
            kept.append(f"{line}\n")
            self._log(Logged(step=entry["step"], scalars=entry["scalars"], counts=entry["counts"]))
        self._journal.write_text("".join(kept), encoding="utf-8")

    def _log(self, values: Logged) -> None:
        if values.scalars:
            self._tracker.log(values.step, values.scalars, values.counts)


def _entry(line: str) -> Mapping[str, Any] | None:
    """Return a line of the journal; None for the torn line of a killed process."""
    try:
        entry: Any = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {"at", "step", "scalars", "counts"} <= entry.keys() else None
