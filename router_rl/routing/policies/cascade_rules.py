"""Threshold cascades inside a cascade policy: at some compute weights they decide in place of the network.

Legend: T queries, N experts, R compute weights, L experts in an order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["CascadeRules"]

_NEVER = 1e6  # log-odds; weights of an export must be finite


class CascadeRules(nn.Module):
    """A threshold cascade for each of R compute weights, and whether it decides there.

    A cascade asks its experts in order, and stops where the log-odds of its answer reach the threshold of the
    stage.

    Args:
        weights: R.
        size: L.

    Attributes:
        weight: [R] float32, compute weights above 0 or equal to it.
        order: [R, L] float32, the ids of the experts as they are asked.
        stops: [R, L] float32 log-odds; the last one always stops.
        most_likely: [R] float32, 1 where the answer is the most likely one, 0 where it is the last.
        used: [R] float32, 1 where the cascade decides.
    """

    weight: Tensor
    order: Tensor
    stops: Tensor
    most_likely: Tensor
    used: Tensor

    def __init__(self, weights: int, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(weights))
        self.register_buffer("order", torch.zeros(weights, size))
        self.register_buffer("stops", torch.full((weights, size), -_NEVER))
        self.register_buffer("most_likely", torch.zeros(weights))
        self.register_buffer("used", torch.zeros(weights))

    @property
    def sizes(self) -> list[int]:
        """R and L."""
        return list(self.order.shape)

    def set_rule(
        self, place: int, *, weight: float, order: Sequence[int], stops: Sequence[float], most_likely: bool
    ) -> None:
        """Write one cascade; it does not decide yet.

        Args:
            place: which of the R.
            weight: its compute weight.
            order: L expert ids.
            stops: thresholds of the first L - 1 stages.
            most_likely: whether the answer is the most likely one.
        """
        self.weight[place] = weight
        self.order[place] = torch.tensor(order).float()
        self.stops[place, : len(stops)] = torch.tensor(stops).float().clamp(-_NEVER, _NEVER)
        self.most_likely[place] = float(most_likely)

    def forward(self, weight: Tensor, asked: Tensor, settled: Tensor) -> tuple[Tensor, Tensor]:
        """Return the action [T] int64 of the cascade of the nearest compute weight, and whether it decides.

        Args:
            weight: [T] compute weights.
            asked: [T, N] bool; the experts of an order are asked in order.
            settled: [T, N] log-odds that the answers of the experts asked are right.

        Returns:
            actions [T] int64; decides [T] bool, False where the experts asked are not the order's first.
        """
        rule = (weight.unsqueeze(-1) - self.weight).abs().argmin(dim=-1)
        order = self.order[rule].long()
        known = asked.gather(-1, order)
        stage = known.sum(dim=-1)
        first = known.long().cumprod(dim=-1).sum(dim=-1)
        on_path = (first == stage) & (stage == asked.sum(dim=-1))
        scores = settled.gather(-1, order).masked_fill(~known, -torch.inf)
        last = (stage - 1).clamp(min=0)
        answer = torch.where(self.most_likely[rule] > 0.0, scores.argmax(dim=-1), last)
        reached = scores.gather(-1, answer.unsqueeze(-1)).squeeze(-1)
        stops = (stage > 0) & (reached >= self.stops[rule].gather(-1, last.unsqueeze(-1)).squeeze(-1))
        ask = order.gather(-1, stage.clamp(max=order.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
        given = order.gather(-1, answer.unsqueeze(-1)).squeeze(-1) + asked.shape[-1]
        return torch.where(stops, given, ask), on_path & (self.used[rule] > 0.0)
