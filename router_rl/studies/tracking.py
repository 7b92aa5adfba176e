"""TensorBoard logs: the learning curve of each trial, and the HParams page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from experts.io.escaping import tag_part

from ..methods.training_loop import Snapshot
from ..problems.load import share_entropy

__all__ = ["TensorBoard"]

_FINAL_STEP = 1000


class TensorBoard:
    """Writes the snapshots of one trial to TensorBoard; curves have the same names for all methods.

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
        """Write one snapshot; the step is the completed fraction of the fit, in thousandths."""
        step = round(_FINAL_STEP * snapshot.step / max(snapshot.total, 1))
        for name, value in snapshot.training.items():
            self._writer.add_scalar(f"training/{tag_part(name)}", value, step)
        if snapshot.validation is None:
            return
        for name, value in snapshot.validation.means().items():
            self._writer.add_scalar(f"validation/{tag_part(name)}", value, step)
        if not math.isnan(snapshot.best):
            self._writer.add_scalar("validation/best_utility", snapshot.best, step)
        share = snapshot.validation.share
        if share is None:
            return
        shares = snapshot.validation.shares
        self._writer.add_scalar("validation/share_entropy", share_entropy(shares), step)
        self._writer.add_scalar("validation/largest_share", float(shares.max()), step)
        selected = np.flatnonzero(share.ravel() > 0) % share.shape[1]
        edges: Any = list(range(share.shape[1] + 1))  # a bin for each expert
        self._writer.add_histogram("validation/experts", selected, step, bins=edges)

    def finish(
        self, hyperparameters: Any, values: Mapping[str, Any], results: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Write the final results, and the hyperparameters for the HParams page.

        Args:
            hyperparameters: dataclass of the fit's hyperparameters.
            values: further columns of that page by name, such as the method and the seed.
            results: means by name, by case label and split, such as `compute weight 0.1/test`; the first is
                the metric of the HParams page.
        """
        for label, means in results.items():
            for name, value in means.items():
                self._writer.add_scalar(f"final/{_label(label)}_{tag_part(name)}", value, _FINAL_STEP)
        parameters = {
            tag_part(name): value if isinstance(value, int | float | str | bool) else str(value)
            for name, value in {**values, **asdict(hyperparameters)}.items()
        }
        metrics = {f"test/{tag_part(name)}": value for name, value in next(iter(results.values())).items()}
        # `SummaryWriter.add_hparams` would write a second run; this writes both into one.
        events = self._writer.file_writer
        assert events is not None
        for summary in hparams(parameters, metrics):
            events.add_summary(summary)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, _FINAL_STEP)


def _label(label: str) -> str:
    """A case's label and a split, such as `compute weight 0.1/test`, as the parts of a tag."""
    case, _, split = label.rpartition("/")
    return f"{tag_part(case)}/{tag_part(split)}"
