"""The base of the hyperparameters of methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from experts.io.checked_options import CheckedOptions

__all__ = ["Hyperparameters", "NoHyperparameters"]


@dataclass(frozen=True, kw_only=True)
class Hyperparameters(CheckedOptions):
    """Hyperparameters whose values are checked against the types and ranges of their fields."""

    prefix: ClassVar[str] = "method"


@dataclass(frozen=True, kw_only=True)
class NoHyperparameters(Hyperparameters):
    """Hyperparameters of a method that has none."""
