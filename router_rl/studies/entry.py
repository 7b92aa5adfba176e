"""Result of one method in one case with one seed; `results.json` is assembled from these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..methods.method import Family
from ..problems.measure import Measurement
from ..problems.problem import Case
from .collapse import Collapse

__all__ = ["Entry", "Group", "Groups"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """Result of one method in one case with one seed.

    Attributes:
        method: name of the method.
        family: its family.
        case: the case.
        seed: the training seed.
        hyperparameters: of the fit; None for a bound.
        validation: means on the tuning rows, by name.
        test: measurement on the test split.
        seconds: duration of the fit, divided among the cases that it serves.
        folder: folder of the trial; None for a bound.
        router: folder of the saved router; None if nothing was saved.
        full_information: whether the fit used the known outcomes of all experts.
        extra_inputs: columns of the table, such as the group, that it reads and other methods do not.
        collapse: diagnosis of a learned policy.
        figures: data of its figures, as JSON.
        equals_start: the method that it started from, if its router is that method's router; else None.
    """

    method: str
    family: Family
    case: Case
    seed: int
    hyperparameters: Any
    validation: Mapping[str, float]
    test: Measurement
    seconds: float
    folder: Path | None = None
    router: Path | None = None
    full_information: bool = False
    extra_inputs: tuple[str, ...] = ()
    collapse: Collapse | None = None
    figures: Sequence[dict[str, Any]] = ()
    equals_start: str | None = None


Group = list[Entry]
Groups = dict[tuple[str, str], Group]
"""Entries by method and case label; the entries of a group are ordered by seed."""
