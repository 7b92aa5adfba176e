"""Soft selection: every expert runs, weighted by the softmax of its logit (such as .1 .2 .3 .4).

The policy is logistic-normal: it draws `a ~ Normal(z, noise^2)` and the weights are `softmax(a)` (Atchison
and Shen 1980, https://doi.org/10.1093/biomet/67.2.261). Densities are those of a, in R^N, where they
integrate to 1. It is the only rule that runs every expert, as in Jacobs, Jordan, Nowlan and Hinton 1991,
eq. 1.1, https://doi.org/10.1162/neco.1991.3.1.79.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..router_error import RouterError
from .rule import Choice, Selection
from .topk import largest

__all__ = ["Soft"]


@dataclass(frozen=True)
class Soft(Selection):
    """All experts, weighted.

    Attributes:
        k: N, the number of experts.
        noise: standard deviation of the policy around the logits.

    >>> rule = Soft(k=4)
    >>> rule.select(torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()).weights
    tensor([[0.4000, 0.3000, 0.2000, 0.1000]])
    """

    k: int
    noise: float = 0.5
    name: ClassVar[str] = "soft"

    def __post_init__(self) -> None:
        if self.noise <= 0:
            raise RouterError(f"Soft.noise={self.noise} is not positive; use a number above 0")

    def check(self, experts: int) -> None:
        """Raise RouterError unless k is the number of experts."""
        if self.k != experts:
            raise RouterError(
                f"Soft.k={self.k} but there are {experts} experts; soft selection runs all of them"
            )

    def spec(self) -> dict[str, Any]:
        """The rule as JSON."""
        return {"rule": self.name, "k": self.k, "noise": self.noise}

    def select(self, logits: Tensor) -> Choice:
        """All experts, largest weight first, weighted by the softmax of the logits; ties by increasing id."""
        return self.choice(logits, logits)

    def sample(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """Draw `a` [T, N] float32; `noise` is standard normal here."""
        drawn = torch.randn_like(logits) if noise is None else noise
        return logits + self.noise * drawn

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normal noise."""
        return torch.randn(shape, generator=generator, device=generator.device)

    def choice(self, logits: Tensor, action: Tensor) -> Choice:
        """The weights `softmax(a)`, largest first."""
        experts = largest(action, self.k)
        return Choice(experts, self.weigh(action, experts))

    def lift(self, values: Tensor, temperature: float = 1.0) -> Tensor:
        """Values at temperature 0 are utilities, not logits: 0.1 of utility is a factor of e in weight."""
        return values * 10.0 if temperature == 0.0 else values

    def weigh(self, logits: Tensor, experts: Tensor) -> Tensor:
        """Softmax of all logits, at the experts given; [T, k] float32."""
        return logits.float().softmax(dim=-1).gather(-1, experts)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """Normal log-density of a, summed over experts, [T] float32; a masked expert contributes 0."""
        distance = (action.float() - logits.float()) / self.noise
        density = -0.5 * distance.square() - math.log(self.noise * math.sqrt(2 * math.pi))
        return torch.where(logits.isfinite(), density, 0.0).sum(dim=-1)

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy of a, [T] float32, nats: the same for all logits."""
        each = math.log(self.noise * math.sqrt(2 * math.pi * math.e))
        return logits.isfinite().sum(dim=-1).float() * each
