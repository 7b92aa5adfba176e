"""TensorBoard: how a run went, and which settings gave what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from ..methods.training_loop import Snapshot
from ..problems.load import share_entropy

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes every snapshot of one run to a folder; gates and policies share the names of their curves.

    Args:
        folder: the run's own folder; runs side by side are laid over each other.
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
        """Write one snapshot: the step is a share of the whole run, in thousandths, for every learner."""
        step = round(1000 * snapshot.step / max(snapshot.total, 1))
        for name, value in snapshot.validation.means().items():
            self._writer.add_scalar(f"validation/{name}", value, step)
        self._writer.add_scalar("validation/best_utility", snapshot.best, step)
        shares = snapshot.validation.shares
        self._writer.add_scalar("validation/share_entropy", share_entropy(shares), step)
        self._writer.add_scalar("validation/largest_share", float(shares.max()), step)
        for name, value in snapshot.training.items():
            self._writer.add_scalar(f"training/{name}", value, step)
        share = snapshot.validation.share
        chosen = np.flatnonzero(share.ravel() > 0) % share.shape[1]
        edges: Any = list(range(share.shape[1] + 1))  # a bin for each expert
        self._writer.add_histogram("validation/experts", chosen, step, bins=edges)

    def finish(self, settings: Any, values: Mapping[str, Any], results: Mapping[str, float]) -> None:
        """Write the run's settings and results for the HParams page.

        Args:
            settings: the method's settings, a dataclass.
            values: further settings by name (the method, the objective, the seed).
            results: measured on the test rows.
        """
        parameters = {
            name: value if isinstance(value, int | float | str | bool) else str(value)
            for name, value in {**values, **asdict(settings)}.items()
        }
        metrics = {f"test/{name}": value for name, value in results.items()}
        self._writer.add_hparams(parameters, metrics, run_name="hparams")
