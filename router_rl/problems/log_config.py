"""Options of the simulated decision log, under bandit feedback."""

from __future__ import annotations

from dataclasses import dataclass

from experts import InputError

__all__ = ["LogConfig"]


@dataclass(frozen=True, kw_only=True)  # no slots: the command line reads its fields
class LogConfig:
    """How the decision log is simulated and used.

    Attributes:
        epsilon: exploration rate: probability of a uniformly random expert; otherwise the log selects the
            expert with the highest mean quality on the training rows.
        clip: maximum importance weight in training; validation is never clipped. None: no clipping.
        seed: random seed of the log.
    """

    epsilon: float = 1.0
    clip: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.epsilon <= 1.0:
            fix = "use more than 0, to 1: without exploration the log has no outcomes of the other experts"
            raise InputError("log.epsilon", self.epsilon, "is not an exploration rate", fix)
        if self.clip is not None and not self.clip >= 0.0:
            raise InputError("log.clip", self.clip, "is not a weight", "use 0 or more, or null")
