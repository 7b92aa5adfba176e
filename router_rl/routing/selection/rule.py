"""What a selection rule is: logits in, experts and weights out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .gumbel import gumbel

__all__ = ["Choice", "Selection"]


class Choice(NamedTuple):
    """Which experts work, and with which weight.

    Attributes:
        experts: [T, k] int64, expert ids, distinct within a row, best first; the id N is nobody.
        weights: [T, k] float32, rows sum to 1; 0 for nobody.
    """

    experts: Tensor
    weights: Tensor


class Selection(ABC):
    """Turns logits into chosen experts; the greedy form is what is exported.

    A rule for which a logit is an expert, [T, N], has everything but the abstract methods here. A masked
    expert has the logit minus infinity: it has probability 0 and weight 0 in every function. What `sample`
    draws is an action: expert ids [T, k] int64, or for a rule that weighs all experts, its own floats.
    """

    name: ClassVar[str]
    # Whether a row's choice depends on that row alone, as serving one request after another needs.
    causal: ClassVar[bool] = True

    k: int
    """How many experts a decision runs, at most."""

    @abstractmethod
    def check(self, experts: int) -> None:
        """Raise RouterError if the rule cannot choose among this many experts."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """The rule as JSON: `{"rule": name, ...}`."""

    @abstractmethod
    def select(self, logits: Tensor) -> Choice:
        """Choose greedily; ties go to the lowest id."""

    @abstractmethod
    def sample(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """Draw an action for each row, given standard Gumbel noise of the logits' shape or torch's own."""

    @abstractmethod
    def weigh(self, logits: Tensor, experts: Tensor) -> Tensor:
        """Weights [T, k] float32 of experts already chosen."""

    @abstractmethod
    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """Log-probability (or density) [T] float32 of drawing an action."""

    @abstractmethod
    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy [T] float32 of the draw, in nats."""

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise of the logits' shape for `sample`, from a generator rather than torch's own."""
        return gumbel(shape, generator)

    def choice(self, logits: Tensor, action: Tensor) -> Choice:
        """The experts and weights that an action stands for."""
        return Choice(action, self.weigh(logits, action))

    def outputs(self, experts: int) -> int:
        """How many logits a scorer gives for N experts."""
        return experts

    def sizes(self, experts: int) -> range:
        """How many experts a decision may run."""
        return range(self.k, self.k + 1)

    def ranking(self, logits: Tensor) -> Tensor:
        """What the rule orders its outputs by, [T, outputs]: two that are equal here are a tie."""
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability [T, N] float32 that the first draw is each expert; what is missing to 1 is nobody's."""
        return logits.float().softmax(dim=-1)

    def mixing(self, logits: Tensor) -> Tensor:
        """Weights [T, N] float32 by which a gate mixes the experts as it learns; they carry the gradient."""
        return self.probabilities(logits)

    def prefer(self, expert: int, experts: int) -> Tensor:
        """Logits [outputs] float32 by which this expert alone is chosen, and the others by rising id."""
        row = torch.full((experts,), -1e4)
        row[expert] = 0.0
        return row

    def mask(self, logits: Tensor, allowed: Tensor) -> Tensor:
        """Logits under which only experts allowed ([N] or [T, N] bool) are chosen."""
        return logits.masked_fill(~allowed, float("-inf"))

    def lift(self, values: Tensor, temperature: float = 1.0) -> Tensor:
        """Logits [T, outputs] from one value an expert [T, N]: for routers that know only those.

        Args:
            values: [T, N] float, higher is better; log-probabilities keep their law at temperature 1.
            temperature: how sharply a group of experts is worth its best member; 0 is its maximum.
        """
        return values
