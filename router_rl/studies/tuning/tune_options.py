"""Options of a hyperparameter search.

The parser executes the type-checking imports of a module that holds options, so this one has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experts.io.checked_options import CheckedOptions
from experts.io.errors import unknown_name
from experts.io.value_range import Count, Seed

__all__ = ["PRUNERS", "SAMPLERS", "SearchOptions", "TuneBudget"]

SAMPLERS = ("TPESampler", "RandomSampler", "GPSampler", "QMCSampler", "NSGAIISampler")
"""Samplers of Optuna. CmaEsSampler is not among them: it unpickles its state from the storage."""

PRUNERS = ("MedianPruner", "PercentilePruner", "SuccessiveHalvingPruner", "HyperbandPruner", "NopPruner")
"""Pruners of Optuna; NopPruner never prunes."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions(CheckedOptions):
    """How hyperparameters are searched.

    Attributes:
        storage: database of the study, such as sqlite:///study.db or postgresql://user@host/name; null:
            study.db in the output folder.
        study_name: name of the study in the storage; null: the problem and the method.
        sampler: TPESampler, RandomSampler, GPSampler, QMCSampler or NSGAIISampler, of Optuna.
        pruner: MedianPruner, PercentilePruner, SuccessiveHalvingPruner, HyperbandPruner, or NopPruner, which
            never prunes; of Optuna.
        seed: random seed of the fits and of the sampler.
        space: a YAML file with your own range for some hyperparameters; the others keep the method's.
    """

    storage: str | None = None
    study_name: str | None = None
    sampler: str = "TPESampler"
    pruner: str = "MedianPruner"
    seed: Seed = 0
    space: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, known in (("sampler", self.sampler, SAMPLERS), ("pruner", self.pruner, PRUNERS)):
            if value not in known:
                raise unknown_name(name, value, known)


@dataclass(frozen=True)
class TuneBudget(CheckedOptions):
    """The number of trials that Optuna's TPESampler gets for every method and case of a comparison.

    Attributes:
        trials: number of trials.

    >>> TuneBudget(20).trials
    20
    """

    trials: Count
