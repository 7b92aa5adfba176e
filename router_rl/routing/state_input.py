"""A part of a router's second input."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["StateInput"]


class StateInput(NamedTuple):
    """A part of the router's second input, which the caller maintains while serving.

    Attributes:
        name: such as `load` or `compute_weight`.
        size: how many numbers it has.
        meaning: how to compute them, in words.
        labels: the name of each number, where a caller has to match names; else empty.
        default: its numbers in a call without state, such as the compute weight of the training; None where
            a caller must give them.
    """

    name: str
    size: int
    meaning: str
    labels: tuple[str, ...] = ()
    default: float | None = None

    def spec(self) -> dict[str, Any]:
        """The part as JSON."""
        labels = {"labels": list(self.labels)} if self.labels else {}
        default = {} if self.default is None else {"default": self.default}
        return {"name": self.name, "size": self.size, "meaning": self.meaning, **labels, **default}
