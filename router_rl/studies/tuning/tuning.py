"""A finished search for hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["BEST_FILE", "Progress", "Tuning"]

BEST_FILE = "best.yaml"
"""File of the best configuration, which the command line adds."""

Progress = Callable[[int, int, str], None]
"""Is called with (trials done, total trials, what was done last)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuning:
    """A finished search.

    Attributes:
        facts: content of `tuning.json`.
        folder: the output folder.
        best: hyperparameters with the highest validation utility; an instance of `Method.hyperparameters`.
        validation_utility: their mean utility on the tuning rows.
    """

    facts: dict[str, Any]
    folder: Path
    best: Any
    validation_utility: float
