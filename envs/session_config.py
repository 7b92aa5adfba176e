"""The options of the session environment."""

from __future__ import annotations

from dataclasses import dataclass

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Fraction, NonNegative, Positive

__all__ = ["SessionConfig", "for_each"]


@dataclass(frozen=True, kw_only=True)
class SessionConfig(CheckedOptions):
    """The prices, the life of a prompt cache, the topics and the weight of the reward.

    Attributes:
        compute_weight: utility per unit of compute, at least 0.
        prices: US$ per 1M input tokens of each expert; empty: proportional to the mean costs of the table.
        cached_share: price of a cached input token over `prices`: one number, or N.
        write_share: price of an input token that is not cached over `prices`: one number, or N.
        output_share: price of an output token over `prices`: one number, or N.
        expiry_s: seconds since its last use after which an expert's cache is lost: one number, or N.
        persistence: probability that a turn keeps the topic of the one before; otherwise its topic is drawn
            uniformly.

    Raises:
        InputError: a value is out of range.
    """

    compute_weight: NonNegative = 0.1
    prices: tuple[Positive, ...] = ()
    cached_share: tuple[Fraction, ...] = (0.1,)
    write_share: tuple[Positive, ...] = (1.0,)
    output_share: tuple[NonNegative, ...] = (5.0,)
    expiry_s: tuple[Positive, ...] = (300.0,)
    persistence: Fraction = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cached_share", "write_share", "output_share", "expiry_s"):
            if not getattr(self, name):
                raise InputError(name, [], "are empty", "give one number, or one for each expert")


def for_each(name: str, given: tuple[float, ...], experts: int) -> tuple[float, ...]:
    """Return a number for each expert, where one number or N are given.

    Args:
        name: of the field, for the error.
        given: one number, or N.
        experts: N.

    Raises:
        InputError: there is another number of them.
    """
    if len(given) == experts:
        return given
    if len(given) != 1:
        raise InputError(name, list(given), f"there are {experts} experts", f"give one number, or {experts}")
    return given * experts
