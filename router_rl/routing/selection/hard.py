"""Hard selection (top-1): one expert runs, with weight 1.

The policy is `Categorical(softmax(z))`. The weight is renormalised, so it is constant and passes no gradient
to the scorer. A learned gate has to use the probability in training (Switch, Fedus et al. 2021, eq. 2,
https://arxiv.org/abs/2101.03961); a policy gradient needs no gradient of the weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..router_error import RouterError
from .gumbel import gumbel_like
from .log_softmax import log_softmax
from .rule import Choice, Selection

__all__ = ["Hard", "categorical_entropy"]


@dataclass(frozen=True)
class Hard(Selection):
    """Top-1 selection.

    >>> rule = Hard()
    >>> rule.select(torch.tensor([[0.1, 0.7, 0.7]])).experts
    tensor([[1]])
    """

    name: ClassVar[str] = "hard"
    k = 1

    def check(self, experts: int) -> None:
        """Raise RouterError unless there is an expert to choose."""
        if experts < 1:
            raise RouterError(f"hard selection needs at least 1 expert, not {experts}")

    def spec(self) -> dict[str, Any]:
        """The rule as JSON."""
        return {"rule": self.name}

    def select(self, logits: Tensor) -> Choice:
        """Choose the largest logit of each row; ties go to the lowest id.

        Args:
            logits: [T, N] float.
        """
        experts = logits.argmax(dim=-1, keepdim=True)  # documented to return the first maximum
        return Choice(experts, self.weigh(logits, experts))

    def sample(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """Draw one expert per row by the Gumbel-max trick (Gumbel 1954); [T, 1] int64."""
        return (logits + gumbel_like(logits, noise)).argmax(dim=-1, keepdim=True)

    def weigh(self, logits: Tensor, experts: Tensor) -> Tensor:
        """All ones, [T, 1] float32."""
        return torch.ones(experts.shape, dtype=torch.float32, device=experts.device)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """`z_e - logsumexp(z)`, [T] float32; logits [T, 1, N] broadcast over actions [T, L, 1]."""
        return log_softmax(logits).expand(*action.shape[:-1], -1).gather(-1, action).squeeze(-1)

    def entropy(self, logits: Tensor) -> Tensor:
        """`-sum_e p_e log p_e`, [T] float32, nats; a masked expert contributes 0."""
        return categorical_entropy(log_softmax(logits))


def categorical_entropy(log_p: Tensor) -> Tensor:
    """Entropy [...] of log-probabilities [..., N], nats."""
    # The clamp keeps 0 * log 0 at 0, and its gradient finite.
    return -(log_p.exp() * log_p.clamp(min=-1e4)).sum(dim=-1)
