"""Expert choice: every expert takes its best queries, up to its capacity (Zhou et al. 2022).

`S = softmax(z)` over experts, and expert e takes the `ceil(T k / N)` queries with the largest S_te (eq. 1-2,
https://arxiv.org/abs/2202.09368), so load is balanced by construction. A query may be taken by none or by
several. Here a query that no expert takes goes to its own best expert, since a request must be answered. A
row's choice depends on the other rows, so the rule is for gates on whole batches, not for single requests.
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
from .topk import largest, scattered

__all__ = ["ExpertChoice", "taken"]


@dataclass(frozen=True)
class ExpertChoice(Selection):
    """Experts choose queries.

    Attributes:
        k: N, the largest number of experts that may take one query.
        capacity: mean experts per query, k in the paper; an expert takes `ceil(T * capacity / N)` queries.

    >>> rule = ExpertChoice(k=2, capacity=1.0)
    >>> rule.select(torch.tensor([[5.0, 0.0], [4.0, 0.0], [3.0, 0.0], [2.0, 0.0]])).experts[:, 0]
    tensor([0, 0, 1, 1])
    """

    k: int
    capacity: float = 1.0
    name: ClassVar[str] = "expert_choice"
    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.capacity <= 0:
            raise RouterError(f"ExpertChoice.capacity={self.capacity} is not positive; use a number above 0")

    def check(self, experts: int) -> None:
        """Raise RouterError unless k is the number of experts."""
        if self.k != experts:
            raise RouterError(f"ExpertChoice.k={self.k} but there are {experts} experts; all may choose")

    def spec(self) -> dict[str, Any]:
        """The rule as JSON."""
        return {"rule": self.name, "k": self.k, "capacity": self.capacity}

    def sizes(self, experts: int) -> range:
        """1 to N."""
        return range(1, experts + 1)

    def select(self, logits: Tensor) -> Choice:
        """Each expert takes its best queries; ties go to the lowest row."""
        count = logits.shape[-1]
        share = logits.float().softmax(dim=-1)
        takers = taken(share, self.capacity)
        single = torch.zeros_like(share).scatter(-1, share.argmax(dim=-1, keepdim=True), 1.0)
        takers = torch.where(takers.any(dim=-1, keepdim=True), takers, single)
        takers = takers.masked_fill(logits == float("-inf"), 0.0)
        ranked = largest(share.masked_fill(takers == 0, -1.0), count)
        runs = takers.gather(-1, ranked) > 0
        experts = torch.where(runs, ranked, count)
        return Choice(experts, self.weigh(logits, experts))

    def weigh(self, logits: Tensor, experts: Tensor) -> Tensor:
        """S renormalised over the experts that took the query, [T, k] float32; 0 for the id N."""
        padded = torch.cat([logits.float(), torch.full_like(logits[..., :1], float("-inf"))], dim=-1)
        return padded.gather(-1, experts).softmax(dim=-1)

    def mixing(self, logits: Tensor) -> Tensor:
        """The weights of the experts that took each query."""
        return scattered(logits.shape[-1], self.select(logits))

    def sample(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """Noisy logits [T, N] to choose by, for random routers; a draw has no probability."""
        return logits + gumbel_like(logits, noise)

    def choice(self, logits: Tensor, action: Tensor) -> Choice:
        """The experts' choice by the noisy logits."""
        return self.select(action)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """Not defined: experts choose, so a query's draw has no probability."""
        raise RouterError(_NO_POLICY)

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy of S, [T] float32, nats."""
        return categorical_entropy(logits.float().log_softmax(dim=-1))


def taken(share: Tensor, capacity: float) -> Tensor:
    """The queries that each expert takes, [T, N] float32 zeros and ones; ties go to the lowest row.

    Args:
        share: [T, N] float, S.
        capacity: an expert takes `ceil(T * capacity / N)` queries, or all there are.

    >>> taken(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]), 1.0).T
    tensor([[1., 0., 1., 0.],
            [0., 1., 0., 1.]])
    """
    rows, count = share.shape
    takers = torch.zeros_like(share)
    if rows == 0:
        return takers
    room = min(rows, -int(-rows * capacity // count))
    return takers.scatter(0, largest(share.T, room).T, 1.0)


_NO_POLICY = "expert_choice has no policy to draw from (experts choose); train it as a gate, or use topk"
