"""All sets of experts that a cascade may have asked, and what a policy is worth from each of them.

Every outcome is known, so whatever a policy would do is known for every set it could be in: its value is
computed by backward induction from the largest sets to none, exactly, and can be differentiated.

Legend: B queries, N experts, S sets of at most `limit` experts.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

__all__ = ["Lattice"]


class Lattice:
    """The sets of at most `limit` of N experts, smallest first.

    Attributes:
        asked: [S, N] bool, who is in a set.
        askable: [S, N] bool, who may join it.
        child: [S, N] int64, the set with one more; 0 where nobody may join.
        levels: the sets' range for each size, from 0.
    """

    def __init__(self, experts: int, limit: int) -> None:
        limit = min(limit, experts)
        sets = [one for size in range(limit + 1) for one in combinations(range(experts), size)]
        place = {one: index for index, one in enumerate(sets)}
        self.asked = torch.zeros(len(sets), experts, dtype=torch.bool)
        self.child = torch.zeros(len(sets), experts, dtype=torch.int64)
        for index, one in enumerate(sets):
            self.asked[index, list(one)] = True
            if len(one) < limit:
                for expert in set(range(experts)) - set(one):
                    self.child[index, expert] = place[tuple(sorted((*one, expert)))]
        self.askable = self.child > 0
        sizes = self.asked.sum(dim=1).tolist()
        self.levels = [
            slice(sizes.index(size), sizes.index(size) + sizes.count(size)) for size in range(limit + 1)
        ]

    def values(self, policy: Tensor, quality: Tensor, price: Tensor) -> Tensor:
        """What a policy earns from each set on: V [B, S], by

            V(s) = sum_e p(answer e | s) quality_e + p(ask e | s) (V(s with e) - price_e).

        Args:
            policy: [B, S, 2 N], chances of asking and of answering with each expert; rows sum to 1.
            quality: [B, N].
            price: [B, N], compute times its weight.
        """
        experts = quality.shape[1]
        found: list[Tensor] = []
        for level in reversed(self.levels):
            chance = policy[:, level]
            value = (chance[..., experts:] * quality.unsqueeze(1)).sum(dim=-1)
            if found:
                after = found[-1][:, (self.child[level] - level.stop).clamp(min=0)] - price.unsqueeze(1)
                value = value + (chance[..., :experts] * after).sum(dim=-1)
            found.append(value)
        return torch.cat(found[::-1], dim=1)
