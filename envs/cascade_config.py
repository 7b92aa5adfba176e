"""The options of the cascade environment."""

from __future__ import annotations

from dataclasses import dataclass

from experts import InputError

__all__ = ["CascadeConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadeConfig:
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

    compute_weights: tuple[float, ...] = (0.1,)
    max_experts: int = 3
    budget: float | None = None
    failure: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "compute_weights", tuple(self.compute_weights))
        if not self.compute_weights or not all(0.0 <= w < float("inf") for w in self.compute_weights):
            fix = "give numbers of at least 0"
            raise InputError("compute_weights", list(self.compute_weights), "not weights", fix)
        if self.max_experts < 1:
            raise InputError("max_experts", self.max_experts, "not positive", "use 1 or more")
        if self.budget is not None and not 0.0 < self.budget < float("inf"):
            raise InputError("budget", self.budget, "is not a positive compute", "use a number above 0")
        if not 0.0 <= self.failure < 1.0:
            raise InputError("failure", self.failure, "not a probability", "use at least 0 and less than 1")
