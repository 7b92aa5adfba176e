"""Weights & Biases: one run for the training run or comparison, and one for each trial, in one group.

Mode, project, entity and folder are those of W&B's own environment variables, such as WANDB_MODE=offline and
WANDB_PROJECT. W&B logs system metrics itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from experts import InputError

from .run_identity import folder_id, run_id
from .tracker import TrackedRun

__all__ = ["WandbTracker"]

_PROJECT = "router-rl"
_LONGEST_TAG = 64  # characters
_NOT_IN_NAMES = re.compile(r"[^\w.-]", re.ASCII)


class WandbTracker:
    """Writes with one `wandb.Run` of its own, whatever other runs the process has.

    A continued run has the id of the interrupted one. `wandb sync` replaces an offline run by a later one of
    the same id, which has all values.
    """

    def __init__(self) -> None:
        self._run: Any = None

    def start(self, run: TrackedRun) -> None:
        """Begin a run, or continue the one of the same folder and key."""
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                dir=os.environ.get("WANDB_DIR", str(run.folder)),
                id=run_id(run),
                name=run.name,
                group=f"{run.folder.resolve().name}-{folder_id(run.folder)}",
                job_type=run.job,
                config={**run.tags, **run.config},
                tags=[value[:_LONGEST_TAG] for value in _labels(run)],
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(console="off", quiet=True, silent=run.job == "trial"),
            )
        except (wandb.Error, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            fix = "run `wandb login`, set WANDB_MODE=offline, or give another --track"
            raise InputError("track", "wandb", f"cannot start ({reason})", fix) from error

    def log(
        self, step: int, scalars: Mapping[str, float], counts: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """Log scalars and histograms; a continued run has those of earlier steps."""
        if step < self._run.step:
            return
        values: dict[str, Any] = dict(scalars)
        for name, count in (counts or {}).items():
            values[name] = wandb.Histogram(np_histogram=(np.array(count), np.arange(len(count) + 1)))
        self._run.log(values, step=step)

    def finish(self, summary: Mapping[str, float], artefacts: Sequence[Path]) -> None:
        """Set the summary, and log each artefact under the name of the group and its own."""
        self._run.summary.update(dict(summary))
        for path in artefacts:
            name = _NOT_IN_NAMES.sub("_", f"{self._run.group}-{path.stem}")
            artefact = wandb.Artifact(name, type=_NOT_IN_NAMES.sub("_", path.stem))
            (artefact.add_dir if path.is_dir() else artefact.add_file)(str(path))
            self._run.log_artifact(artefact)
        self._run.finish()

    def stop(self) -> None:
        """End the run as failed."""
        self._run.finish(exit_code=1)


def _labels(run: TrackedRun) -> list[str]:
    """Return the problem, and the method of a trial: the whole may have many."""
    names = ("problem", "method") if run.job == "trial" else ("problem",)
    return [run.tags[name] for name in names if run.tags.get(name)]
