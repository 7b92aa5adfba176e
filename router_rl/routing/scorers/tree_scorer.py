"""A sum of regression trees for each expert, all evaluated at once by gathers.

Every tree is stored as a complete binary tree of one depth: node 0 is the root, the children of node i are
2 i + 1 and 2 i + 2, and a row goes right where its feature exceeds the threshold. A branch that ends early
continues to the left (its thresholds are infinite) and repeats its value in the leaf.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..router_error import RouterError
from .scorer import Scorer

__all__ = ["TreeScorer"]


_DEEPEST = 30  # a tree of depth d takes 2^d leaves


class TreeScorer(Scorer):
    """`z_e = bias_e + sum of the values of the leaves that x falls in`, over the M trees of expert e.

    Trees read raw features, so nothing is standardised.

    Args:
        inputs: D.
        experts: N (or as many values as the selection rule takes).
        trees: M, trees of each expert, at least 1.
        depth: splits from the root to a leaf, at least 1.

    Raises:
        RouterError: a number is below 1.

    Attributes:
        feature: [N M, 2^depth - 1] int64, the feature that each node compares.
        threshold: [N M, 2^depth - 1] float32.
        leaf: [N M, 2^depth] float32, values.
    """

    kind: ClassVar[str] = "trees"
    may_be_infinite: ClassVar[tuple[str, ...]] = ("threshold",)
    feature: Tensor

    def __init__(self, inputs: int, experts: int, trees: int, depth: int) -> None:
        super().__init__(inputs, experts)
        for name, value in (("trees", trees), ("depth", depth)):
            if value < 1:
                raise RouterError(f"TreeScorer.{name}={value} is below 1; use 1 or more")
        if depth > _DEEPEST:
            raise RouterError(f"TreeScorer.depth={depth} is too deep; use 1 to {_DEEPEST}")
        self.trees = trees
        self.depth = depth
        count, nodes = experts * trees, 2**depth - 1
        self.register_buffer("feature", torch.zeros(count, nodes, dtype=torch.int64))
        self.threshold = nn.Parameter(torch.full((count, nodes), float("inf")), requires_grad=False)
        self.leaf = nn.Parameter(torch.zeros(count, nodes + 1), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(experts), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D]; takes about T x N x M numbers of memory."""
        x = x.float()
        tree = torch.arange(len(self.feature), device=x.device)
        place = torch.zeros_like(tree).expand(x.shape[0], -1)  # [T, N M], position within the level
        for level in range(self.depth):
            node = place + (2**level - 1)
            right = x.gather(1, self.feature[tree, node]) > self.threshold[tree, node]
            place = 2 * place + right.long()
        value = self.leaf[tree, place]
        return value.reshape(-1, self.experts, self.trees).sum(dim=-1) + self.bias

    def output_bias(self) -> nn.Parameter:
        """The bias [N]."""
        return self.bias

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {
            "kind": self.kind,
            "inputs": self.inputs,
            "experts": self.experts,
            "trees": self.trees,
            "depth": self.depth,
        }
