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
_MOST_IN_KEYS = 2**15  # ids that fit beside a float32 in a double


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
    """Ids [..., k] int64 of the k largest scores [..., n], best first; ties go to the lowest id.

    `torch.topk` promises no order among ties. On a CPU its result stands where the k + 1 largest differ, and
    a stable sort, which takes several times as long, decides where they do not. While torch compiles or
    exports, and on a GPU, nothing may look at a value: there the id is part of the key.
    """
    if k == 1:
        return scores.argmax(dim=-1, keepdim=True)  # documented to return the first maximum
    scores, n = scores.detach(), scores.shape[-1]
    if torch.compiler.is_compiling() or not scores.is_cpu:
        if scores.dtype != torch.float64 and n <= _MOST_IN_KEYS:
            return _keys(scores).topk(k, dim=-1).indices
    else:
        values, ids = scores.topk(min(k + 1, n), dim=-1)
        if (values[..., :-1] > values[..., 1:]).all():
            return ids[..., :k]
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def _keys(scores: Tensor) -> Tensor:
    """Keys [..., n] float64, all different, that rank as the scores do and equal ones by increasing id.

    A float32 leaves 29 bits of a double's mantissa unused. Two different ones are 2^-24 of their size apart,
    or 2^-149: the id, below 2^15, moves a value by less than that, and a 0 by a little too.
    """
    # Finite, since infinity times the 0 of the first id would be NaN; scaled, so that there is room beyond
    # the largest float32 for constants that ONNX's converter still takes.
    value = (scores.double() * 2.0**-10).nan_to_num(2.0**120, 2.0**119, -(2.0**119))
    step = torch.arange(scores.shape[-1], device=scores.device, dtype=torch.float64) * 2.0**-40
    return value - (value.abs() + 2.0**-200) * step


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
