"""Group lookup with an inferred group: the values of each group, weighted by the group's probability."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .scorer import StandardisingScorer, fold_standardisation

__all__ = ["LookupScorer"]


class LookupScorer(StandardisingScorer):
    """`z = softmax(W (x - shift) * scale + b) V`: probabilities of G groups, then their values.

    Args:
        inputs: D.
        experts: N (or as many values as the selection rule takes).
        groups: G.

    Attributes:
        weight: [G, D] float32.
        bias: [G] float32.
        values: [G, N] float32.
    """

    kind: ClassVar[str] = "lookup"

    def __init__(self, inputs: int, experts: int, groups: int) -> None:
        super().__init__(inputs, experts)
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(groups, inputs))
        self.bias = nn.Parameter(torch.zeros(groups))
        self.values = nn.Parameter(torch.zeros(groups, experts))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D]."""
        return self.probabilities(x) @ self.values

    def probabilities(self, x: Tensor) -> Tensor:
        """Probability of each group, [T, G] float32, of inputs [T, D]."""
        x = (x.float() - self.shift) * self.scale
        return F.linear(x, self.weight, self.bias).softmax(dim=-1)

    def folded(self) -> LookupScorer:
        """The same function with the standardisation moved into the weights of the groups."""
        scorer = LookupScorer(self.inputs, self.experts, self.groups)
        weight, bias = fold_standardisation(self.weight, self.bias, self.shift, self.scale)
        with torch.no_grad():
            scorer.weight.copy_(weight)
            scorer.bias.copy_(bias)
            scorer.values.copy_(self.values)
        return scorer

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {"kind": self.kind, "inputs": self.inputs, "experts": self.experts, "groups": self.groups}
