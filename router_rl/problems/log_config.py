"""Options of the simulated decision log, under bandit feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from experts.io.checked_options import CheckedOptions
from experts.io.value_range import NonNegative, Seed, Share

__all__ = ["LogConfig"]


@dataclass(frozen=True, kw_only=True)  # no slots: the command line reads its fields
class LogConfig(CheckedOptions):
    """How the decision log is simulated and used.

    Attributes:
        epsilon: exploration rate: probability of a uniformly random expert; otherwise the log selects the
            expert with the highest mean quality on the training rows. Above 0: without exploration the log
            has no outcomes of the other experts.
        clip: maximum importance weight in training; validation is never clipped. null: no clipping.
        seed: random seed of the log.
    """

    prefix: ClassVar[str] = "problem.log"

    epsilon: Share = 1.0
    clip: NonNegative | None = None
    seed: Seed = 0
