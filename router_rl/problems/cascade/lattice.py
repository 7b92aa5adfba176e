"""All sets of experts that a cascade can have asked, and the exact value of a policy in each of them.

Every outcome is known, so the value of a policy is computed by backward induction, from the largest sets to
the empty one. It is exact and differentiable.

Legend: B queries, N experts, S sets of at most `max_experts` experts.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

__all__ = ["Lattice"]


class Lattice:
    """The sets of at most `max_experts` of N experts, smallest first.

    Args:
        experts: N.
        max_experts: maximum size of a set.

    Attributes:
        asked: [S, N] bool, the experts in a set.
        askable: [S, N] bool, the experts that can be asked next.
        child: [S, N] int64, the set with one expert more; 0 where it cannot be asked.
        levels: the range of the sets of each size, from size 0.
    """

    def __init__(self, experts: int, max_experts: int) -> None:
        max_experts = min(max_experts, experts)
        sets = [members for size in range(max_experts + 1) for members in combinations(range(experts), size)]
        place = {members: index for index, members in enumerate(sets)}
        self.asked = torch.zeros(len(sets), experts, dtype=torch.bool)
        self.child = torch.zeros(len(sets), experts, dtype=torch.int64)
        for index, members in enumerate(sets):
            self.asked[index, list(members)] = True
            if len(members) < max_experts:
                for expert in set(range(experts)) - set(members):
                    self.child[index, expert] = place[tuple(sorted((*members, expert)))]
        self.askable = self.child > 0
        sizes = self.asked.sum(dim=1).tolist()
        self.levels = [
            slice(sizes.index(size), sizes.index(size) + sizes.count(size)) for size in range(max_experts + 1)
        ]

    def ready(self, after: Tensor, who: Tensor) -> Tensor:
        """Return which experts follow none, or one that was asked in the set, [B, S, K] bool.

        Args:
            after: [M] int64, for all M experts, the one that must be asked before each; -1 for none.
            who: [B, K] int64, the K experts of each query's sets, among the M.
        """
        before = after[who]
        follows = (before.unsqueeze(-1) == who.unsqueeze(-2)).float()  # [B, K, K]: the second comes first
        asked = torch.einsum("sj,bkj->bsk", self.asked.float(), follows) > 0.0
        return (before < 0).unsqueeze(1) | asked

    def values(self, policy: Tensor, quality: Tensor, price: Tensor) -> Tensor:
        """Return the value of a policy in each set, V [B, S] float32.

            V(s) = sum_e p(answer e | s) quality_e + p(ask e | s) (V(s with e) - price_e).

        Args:
            policy: [B, S, 2 N] float, probabilities of asking each expert and of returning its answer; rows
                sum to 1.
            quality: [B, N] float.
            price: [B, N] float, compute times its weight.
        """
        experts = quality.shape[1]
        values: list[Tensor] = []
        for level in reversed(self.levels):
            chance = policy[:, level]
            value = (chance[..., experts:] * quality.unsqueeze(1)).sum(dim=-1)
            if values:
                after = values[-1][:, (self.child[level] - level.stop).clamp(min=0)] - price.unsqueeze(1)
                value = value + (chance[..., :experts] * after).sum(dim=-1)
            values.append(value)
        return torch.cat(values[::-1], dim=1)
