"""The options of the cascade environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Count, NonNegative, Positive, Range

__all__ = ["CascadeConfig"]


@dataclass(frozen=True, kw_only=True)
class CascadeConfig(CheckedOptions):
    """The cost of a call, and which calls are valid.

    Attributes:
        compute_weights: utility per unit of compute, at least 0; an episode draws and observes one of
            them.
        max_experts: the most experts that an episode calls.
        budget: the most compute that an episode spends, in mean compute; None for no bound. If no expert fits
            the budget at the start, the cheapest live expert can still be called.
        failure: the probability that an expert is down in an episode; at least one expert is up.

    Raises:
        InputError: a value is out of range.
    """

    compute_weights: tuple[NonNegative, ...] = (0.1,)
    max_experts: Count = 3
    budget: Positive | None = None
    failure: Annotated[float, Range(0.0, 1.0, below=True)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.compute_weights:
            raise InputError("compute_weights", [], "are empty", "give numbers of at least 0")
