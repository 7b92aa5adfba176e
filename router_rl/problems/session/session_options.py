"""The options of the session problem."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Fraction, NonNegative, Positive, Range, Size

from ..feature_config import FeatureConfig

__all__ = ["SessionOptions"]


@dataclass(frozen=True, kw_only=True)
class SessionOptions(CheckedOptions):
    """The options of `SessionProblem`.

    Attributes:
        sessions: `generated`, or the Parquet path of a trace with `hash_ids`, whose first half is for
            training, the next quarter for validation and the last quarter for test.
        turns: median number of turns of a generated conversation.
        spread: standard deviation of the logarithm of its number of turns.
        first_tokens: mean tokens of its first prompt.
        new_tokens: mean tokens that each later turn adds, beside the previous answer.
        output_tokens: mean tokens of an answer.
        gap_s: mean seconds between two turns.
        prices: US$ per 1M input tokens of each expert; empty: proportional to the mean costs of the table.
        cached_share: price of a cached input token over `prices`: one number, or one for each expert.
        write_share: price of an input token that is not cached over `prices`: likewise.
        output_share: price of an output token over `prices`: likewise.
        expiry_s: seconds since its last use after which a model's cache is lost: likewise.
        persistence: probability that a turn keeps the topic of the one before.
        window: number of turns of an evaluation episode; conversations follow one another.
        episodes: number of episodes that a policy is measured on; a confidence interval needs 2.
        features: features to compute from prompts, if the table has none of its own.
    """

    prefix: ClassVar[str] = "problem"

    sessions: str = "generated"
    turns: Positive = 33.0
    spread: NonNegative = 0.25
    first_tokens: Positive = 6_000.0
    new_tokens: Positive = 2_150.0
    output_tokens: Positive = 390.0
    gap_s: NonNegative = 20.0
    prices: tuple[Positive, ...] = ()
    cached_share: Fraction | tuple[Fraction, ...] = 0.1
    write_share: Positive | tuple[Positive, ...] = 1.0
    output_share: NonNegative | tuple[NonNegative, ...] = 5.0
    expiry_s: Positive | tuple[Positive, ...] = 300.0
    persistence: Fraction = 0.9
    window: Size = 256
    episodes: Annotated[int, Range(2, 10_000_000)] = 48
    features: FeatureConfig = field(default_factory=FeatureConfig)

    def __post_init__(self) -> None:
        if isinstance(self.sessions, Path):
            object.__setattr__(self, "sessions", str(self.sessions))
        super().__post_init__()

    def config(self, compute_weight: float) -> Any:
        """Return the options of the environment, a `SessionConfig`.

        Args:
            compute_weight: utility per unit of compute.
        """
        from envs import SessionConfig

        shares = {
            name: given if isinstance(given := getattr(self, name), tuple) else (float(given),)
            for name in ("cached_share", "write_share", "output_share", "expiry_s")
        }
        return SessionConfig(
            compute_weight=compute_weight, prices=self.prices, persistence=self.persistence, **shares
        )

    def generator(self) -> dict[str, float]:
        """Return the arguments of `Conversations.generated` but the number and the seed."""
        names = ("turns", "spread", "first_tokens", "new_tokens", "output_tokens", "gap_s")
        return {name: getattr(self, name) for name in names}
