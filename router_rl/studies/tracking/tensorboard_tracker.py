"""TensorBoard: one folder for each trial, with its learning curve and its line of the HParams page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from experts.io.escaping import tag_part
from experts.io.temporaries import remove

from .tracked_values import FINAL_STEP
from .tracker import TrackedRun

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """Writes trials to `tensorboard/METHOD/CASE/seed=SEED/trial=NUMBER`, and nothing for the whole."""

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None
        self._config: Mapping[str, Any] = {}

    def start(self, run: TrackedRun) -> None:
        """Begin a trial in an empty folder."""
        if run.job == "trial":
            place = run.folder / "tensorboard" / run.name
            remove(place)  # of an interrupted trial, whose values are logged again
            self._writer = SummaryWriter(str(place), flush_secs=5)
            self._config = run.config

    def log(
        self, step: int, scalars: Mapping[str, float], counts: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """Write scalars, and counts as histograms with a bin for each value."""
        if self._writer is None:
            return
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        for name, count in (counts or {}).items():
            edges: Any = list(range(len(count) + 1))
            self._writer.add_histogram(name, np.repeat(np.arange(len(count)), count), step, bins=edges)

    def finish(self, summary: Mapping[str, float], artefacts: Sequence[Path]) -> None:
        """Write the final results, and the HParams page with those whose names begin with `test/`."""
        if self._writer is None:
            return
        parameters = {
            tag_part(name): value if isinstance(value, int | float | str | bool) else str(value)
            for name, value in self._config.items()
        }
        metrics = {name: value for name, value in summary.items() if name.startswith("test/")}
        # `SummaryWriter.add_hparams` would write a second run; this writes both into one.
        events = self._writer.file_writer
        assert events is not None
        for each in hparams(parameters, metrics):
            events.add_summary(each)
        self.log(FINAL_STEP, summary)
        self.stop()

    def stop(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
