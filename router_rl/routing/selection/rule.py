"""What a selection rule is: logits in, experts and weights out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .gumbel import gumbel

__all__ = ["Choice", "Selection"]


class Choice(NamedTuple):
    """The chosen experts and their weights.

    Attributes:
        experts: [T, k] int64, expert ids, distinct within a row, best first; the id N means no expert.
        weights: [T, k] float32, rows sum to 1 (to less if the rule is not `normalised`); 0 for no expert.
    """

    experts: Tensor
    weights: Tensor


class Selection(ABC):
    """Turns logits into chosen experts; the greedy form is what is exported.

    A rule with one logit per expert, [T, N], needs to define the abstract methods only. A masked expert has
    the logit minus infinity: it has probability 0 and weight 0 in every function. `sample` draws an action:
    expert ids [T, k] int64, or floats for a rule that weights all experts.
    """

    name: ClassVar[str]
    # Whether a row's choice depends on that row alone, which serving single requests requires.
    causal: ClassVar[bool] = True
    # Whether the weights of the chosen experts sum to 1.
    normalised: ClassVar[bool] = True

    k: int
    """The largest number of experts per decision."""

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
        """Noise of the logits' shape for `sample`, from the given generator."""
        return gumbel(shape, generator)

    def choice(self, logits: Tensor, action: Tensor) -> Choice:
        """The experts and weights of an action."""
        return Choice(action, self.weigh(logits, action))

    def outputs(self, experts: int) -> int:
        """Number of logits that a scorer gives for N experts."""
        return experts

    def sizes(self, experts: int) -> range:
        """Possible numbers of experts per decision."""
        return range(self.k, self.k + 1)

    def ranking(self, logits: Tensor) -> Tensor:
        """The scores that the rule ranks its outputs by, [T, outputs]; equal scores are a tie."""
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability [T, N] float32 that the first draw is each expert; rows may sum to less than 1."""
        return logits.float().softmax(dim=-1)

    def mixing(self, logits: Tensor) -> Tensor:
        """Weights [T, N] float32 of the experts' mixture in training; they carry the gradient."""
        return self.probabilities(logits)

    def prefer(self, expert: int, experts: int) -> Tensor:
        """Logits [outputs] float32 that rank this expert first and the others by increasing id."""
        row = torch.full((experts,), -1e4)
        row[expert] = 0.0
        return row

    def mask(self, logits: Tensor, allowed: Tensor) -> Tensor:
        """Logits with every expert masked that is not allowed ([N] or [T, N] bool)."""
        return logits.masked_fill(~allowed, float("-inf"))

    def lift(self, values: Tensor, temperature: float = 1.0) -> Tensor:
        """Logits [T, outputs] from one value per expert [T, N], for routers that predict values.

        Args:
            values: [T, N] float, higher is better; log-probabilities stay so at temperature 1.
            temperature: of the log-sum-exp that gives a group of experts its value; 0 is the maximum.
        """
        return values
