"""What a selection rule is: logits in, experts and weights out."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

__all__ = ["Choice", "Selection"]


class Choice(NamedTuple):
    """Which experts work, and with which weight.

    Attributes:
        experts: [T, k] int64, expert ids, distinct within a row, best first.
        weights: [T, k] float32, rows sum to 1.
    """

    experts: Tensor
    weights: Tensor


class Selection(Protocol):
    """Turns logits [T, N] into chosen experts [T, k]; the greedy form is what is exported.

    A masked expert has the logit minus infinity: it has probability 0 and weight 0 in every function.
    """

    @property
    def name(self) -> str:
        """The rule's name on the command line."""
        ...

    @property
    def k(self) -> int:
        """How many experts a decision runs."""
        ...

    def check(self, experts: int) -> None:
        """Raise RouterError if the rule cannot choose among this many experts."""
        ...

    def spec(self) -> dict[str, Any]:
        """The rule as JSON: `{"rule": name, ...}`."""
        ...

    def select(self, logits: Tensor) -> Choice:
        """Choose greedily; ties go to the lowest id."""
        ...

    def sample(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """Draw experts [T, k] int64 from the policy, given standard Gumbel noise [T, N] or torch's own."""
        ...

    def weigh(self, logits: Tensor, experts: Tensor) -> Tensor:
        """Weights [T, k] float32 of experts already chosen."""
        ...

    def log_prob(self, logits: Tensor, experts: Tensor) -> Tensor:
        """Log-probability [T] float32 of drawing these experts in this order."""
        ...

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy [T] float32 of the draw, in nats."""
        ...
