"""The gate of a mixture of experts: a tree of softmax gates; a flat gate is a tree of one level.

`g_te` is the product of the branch probabilities from the root to leaf e (Jordan and Jacobs 1994,
https://doi.org/10.1162/neco.1994.6.2.181).
"""

from __future__ import annotations

from typing import Union

import torch
from torch import Tensor

from ..io.errors import InputError
from .logistic import fit_logistic, logistic_log_probabilities, ridge_penalty

__all__ = ["GateTree", "Tree"]

# A leaf is an expert's id; an inner node is the tuple of its children.
Tree = Union[int, tuple["Tree", ...]]  # noqa: UP007 (a string cannot be joined with | on 3.10)


class GateTree:
    """Softmax gates, one per inner node, with the same inputs.

    Args:
        tree: nested tuples of expert ids: `(0, 1, 2, 3)` is flat, `((0, 1), (2, 3))` has two levels.
        inputs: D.
        ridge: of every gate's logistic regression.

    Raises:
        InputError: the leaves are not 0 to N - 1, once each.

    >>> gate = GateTree(((0, 1), (2, 3)), inputs=5)
    >>> gate.families
    [((0, 1), (2, 3)), ((0,), (1,)), ((2,), (3,))]
    """

    def __init__(self, tree: Tree, inputs: int, *, ridge: float = 0.0) -> None:
        self.families = _families(tree)
        self.experts = len(_leaves(tree))
        if sorted(_leaves(tree)) != list(range(self.experts)) or not self.families:
            fix = f"give each of 0 to {self.experts - 1} once, in nested tuples"
            raise InputError("tree", tree, "its leaves are not the expert ids", fix)
        self.ridge = ridge
        self.weights = [torch.zeros(len(f), inputs + 1, dtype=torch.float64) for f in self.families]

    @property
    def parameters(self) -> int:
        """The number of learned parameters."""
        return sum(weights.numel() for weights in self.weights)

    def log_probabilities(self, x: Tensor) -> Tensor:
        """Return `log g` [T, N] float64 of inputs x [T, D] float64."""
        total = x.new_zeros(len(x), self.experts)
        for family, weights in zip(self.families, self.weights, strict=True):
            branches = logistic_log_probabilities(x, weights)
            for child, leaves in enumerate(family):
                total[:, list(leaves)] += branches[:, child : child + 1]
        return total

    def maximise(self, x: Tensor, responsibilities: Tensor) -> None:
        """Run the M-step: fit every node's gate to the responsibilities of its children.

        A child's responsibility is the sum over the leaves below it, so a row's weight in a node is the
        node's responsibility for it. With two levels the targets of a lower gate are Jordan and Jacobs'
        `h_i h_j|i`.

        Args:
            x: [T, D] float64.
            responsibilities: [T, N] float64, rows sum to 1.
        """
        for node, family in enumerate(self.families):
            targets = torch.stack([responsibilities[:, list(leaves)].sum(dim=1) for leaves in family], dim=1)
            self.weights[node] = fit_logistic(x, targets, self.weights[node], ridge=self.ridge)

    def penalty(self) -> float:
        """Return the ridge penalty, which is subtracted from the log-likelihood."""
        return sum(float(ridge_penalty(weights, self.ridge)) for weights in self.weights)


def _leaves(node: Tree) -> list[int]:
    return [node] if isinstance(node, int) else [leaf for child in node for leaf in _leaves(child)]


def _families(tree: Tree) -> list[tuple[tuple[int, ...], ...]]:
    """The leaves below each child, for every inner node, level by level."""
    families: list[tuple[tuple[int, ...], ...]] = []
    queue = [tree]
    while queue:
        node = queue.pop(0)
        if not isinstance(node, int):
            families.append(tuple(tuple(_leaves(child)) for child in node))
            queue.extend(node)
    return families
