"""Sparse selection (top-k, such as 2 of 8): k experts run, weighted by the softmax over the chosen.

The policy draws experts one after the other without replacement, each from the softmax over those that
remain (Plackett 1975; Luce 1959), which is the k largest of `z + Gumbel noise` (Kool et al. 2019, eq. 6,
https://arxiv.org/abs/1903.06059). The weights are Mixtral's (Jiang et al. 2024, section 2.1,
https://arxiv.org/abs/2401.04088).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..router_error import RouterError
from .gumbel import gumbel_like
from .hard import categorical_entropy
from .rule import Choice, Selection

__all__ = ["TopK", "largest", "scattered"]

_EXACT_PREFIXES = 4096


@dataclass(frozen=True)
class TopK(Selection):
    """Top-k selection.

    Attributes:
        k: experts per decision, at least 1.

    >>> choice = TopK(k=2).select(torch.tensor([[0.0, 2.0, 2.0, 1.0]]))
    >>> choice.experts, choice.weights
    (tensor([[1, 2]]), tensor([[0.5000, 0.5000]]))
    """

    k: int = 2
    name: ClassVar[str] = "topk"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise RouterError(f"TopK.k={self.k} is not positive; use 1 or more")

    def check(self, experts: int) -> None:
        """Raise RouterError if k exceeds the number of experts."""
        if self.k > experts:
            raise RouterError(f"TopK.k={self.k} exceeds {experts} experts; use 1 to {experts}")

    def spec(self) -> dict[str, Any]:
        """The rule as JSON."""
        return {"rule": self.name, "k": self.k}

    def select(self, logits: Tensor) -> Choice:
        """Choose the k largest logits of each row, best first; ties go to the lowest id.

        Args:
            logits: [T, N] float.
        """
        experts = largest(logits, self.k)
        return Choice(experts, self.weigh(logits, experts))

    def mixing(self, logits: Tensor) -> Tensor:
        """The weights of the chosen experts, 0 elsewhere: other experts get no gradient."""
        return scattered(logits.shape[-1], self.select(logits))

    def sample(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """Draw k distinct experts per row, in order, [T, k] int64 (Gumbel top-k)."""
        return largest(logits + gumbel_like(logits, noise), self.k)

    def weigh(self, logits: Tensor, experts: Tensor) -> Tensor:
        """Softmax over the chosen logits, [T, k] float32."""
        return logits.float().gather(-1, experts).softmax(dim=-1)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """`sum_j (z_j - logsumexp of those remaining at draw j)`, [T] float32."""
        remaining = logits.float()
        total = torch.zeros(logits.shape[:-1], dtype=torch.float32, device=logits.device)
        for draw in range(action.shape[-1]):
            chosen = action[..., draw : draw + 1]
            total = total + remaining.log_softmax(dim=-1).gather(-1, chosen).squeeze(-1)
            remaining = remaining.scatter(-1, chosen, float("-inf"))
        return total

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy of the ordered draw, [T] float32, nats, by the chain rule.

        Exact while N^(k-1) is at most 4,096. Past that, each draw's entropy is taken after the greedy
        draws before it: cheap, differentiable, and close where the policy is nearly deterministic.
        """
        exact = logits.shape[-1] ** (self.k - 1) <= _EXACT_PREFIXES
        return (_exact_entropy if exact else _greedy_entropy)(logits.float(), self.k)


def largest(scores: Tensor, k: int) -> Tensor:
    """Ids [..., k] int64 of the k largest scores, best first; ties go to the lowest id."""
    # torch.topk promises no order among ties; a stable sort keeps the lowest id first.
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def scattered(experts: int, choice: Choice) -> Tensor:
    """A choice as weights [T, N] float32, 0 for experts that do not run."""
    dense = choice.weights.new_zeros((*choice.weights.shape[:-1], experts + 1))
    return dense.scatter(-1, choice.experts, choice.weights)[..., :experts]


def _exact_entropy(logits: Tensor, draws: int) -> Tensor:
    log_p = logits.log_softmax(dim=-1)
    entropy = categorical_entropy(log_p)
    if draws == 1:
        return entropy
    drawn = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    rest = _exact_entropy(logits.unsqueeze(-2).masked_fill(drawn, float("-inf")), draws - 1)  # [..., N]
    return entropy + (log_p.exp() * rest).sum(dim=-1)


def _greedy_entropy(logits: Tensor, draws: int) -> Tensor:
    entropy = torch.zeros(logits.shape[:-1], device=logits.device)
    for _ in range(draws):
        log_p = logits.log_softmax(dim=-1)
        entropy = entropy + categorical_entropy(log_p)
        logits = logits.scatter(-1, log_p.argmax(dim=-1, keepdim=True), float("-inf"))
    return entropy
