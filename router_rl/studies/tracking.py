"""TensorBoard: the curve of each trial, and which hyperparameters gave what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from ..methods.training_loop import Snapshot
from ..problems.load import share_entropy

if TYPE_CHECKING:
    from .trial import CaseResult, Trial

__all__ = ["TensorBoard"]

_FINAL_STEP = 1000


class TensorBoard:
    """Writes every snapshot of one trial; all methods share the names of their curves.

    Args:
        folder: the trial's own folder.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder), flush_secs=5)

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def __call__(self, snapshot: Snapshot) -> None:
        """Write one snapshot; the step is the completed share of the fit, in thousandths."""
        step = round(_FINAL_STEP * snapshot.step / max(snapshot.total, 1))
        for name, value in snapshot.training.items():
            self._writer.add_scalar(f"training/{name}", value, step)
        if snapshot.validation is None:
            return
        for name, value in snapshot.validation.means().items():
            self._writer.add_scalar(f"validation/{name}", value, step)
        if not math.isnan(snapshot.best):
            self._writer.add_scalar("validation/best_utility", snapshot.best, step)
        share = snapshot.validation.share
        if share is None:
            return
        shares = snapshot.validation.shares
        self._writer.add_scalar("validation/share_entropy", share_entropy(shares), step)
        self._writer.add_scalar("validation/largest_share", float(shares.max()), step)
        chosen = np.flatnonzero(share.ravel() > 0) % share.shape[1]
        edges: Any = list(range(share.shape[1] + 1))  # a bin for each expert
        self._writer.add_histogram("validation/experts", chosen, step, bins=edges)

    def finish(self, trial: Trial, results: Sequence[CaseResult]) -> None:
        """Write what the policy earned in each case, and the hyperparameters for the HParams page.

        Args:
            trial: which fit.
            results: measured, one for each case that it serves.
        """
        for result in results:
            for split, means in (("validation", result.validation), ("test", result.test.means())):
                for name, value in means.items():
                    self._writer.add_scalar(f"final/{result.case.label}/{split}_{name}", value, _FINAL_STEP)
        first = results[0]
        values = {"method": trial.method, "seed": trial.seed, "trial": trial.number, **first.case.values}
        parameters = {
            name: value if isinstance(value, int | float | str | bool) else str(value)
            for name, value in {**values, **asdict(trial.hyperparameters)}.items()
        }
        metrics = {f"test/{name}": value for name, value in first.test.means().items()}
        self._writer.add_hparams(parameters, metrics, run_name="hparams")
