"""A scorer that is told the trade-off: one network for every compute weight, folded at any one of them.

Each condition c (the compute weight; maybe the load weight) is described by two smooth numbers, where c
stands in its range [low, high] on a logarithmic and on a plain scale, both -1 to 1. They act on the network
in two places that are linear in its weights, so that a fixed c folds away without a trace:

    h = relu((1 + gamma(c)) * (W1 x + b1) + beta(c))    FiLM (Perez et al. 2018, eq. 1) on the first layer
    z = W2 h + b2 + tilt(c)                             a bias of each expert's own

A linear scorer needs gamma to change how sharply it tells experts apart; for an MLP, the tilt does most.

Source: FiLM, https://arxiv.org/abs/1709.07871.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..router_error import RouterError

if TYPE_CHECKING:
    from .dense import LinearScorer, MLPScorer

__all__ = ["ConditionedScorer"]


class ConditionedScorer(nn.Module):
    """A linear or ReLU network on standardised features, modulated by conditions.

    Until it is trained the conditions change nothing.

    Args:
        inputs: D + M, features and then conditions.
        experts: N.
        hidden: width of each hidden layer; empty for a linear scorer.
        ranges: the lowest and the highest value of each condition; a value outside counts as the nearest.

    Raises:
        RouterError: a range is not positive and rising.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, inputs: int, experts: int, hidden: Sequence[int], ranges: Sequence[Sequence[float]]
    ) -> None:
        super().__init__()
        self.ranges = tuple((float(low), float(high)) for low, high in ranges)
        if not all(0.0 < low < high < math.inf for low, high in self.ranges):
            raise RouterError(f"ranges={list(self.ranges)} must each be 0 < lowest < highest")
        self.inputs = inputs
        self.experts = experts
        self.hidden = tuple(hidden)
        self.features = inputs - len(self.ranges)
        self.register_buffer("shift", torch.zeros(self.features))
        self.register_buffer("scale", torch.ones(self.features))
        widths = (self.features, *self.hidden, experts)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.film = nn.Linear(2 * len(self.ranges), 2 * widths[1])
        self.tilt = nn.Linear(2 * len(self.ranges), experts, bias=False) if self.hidden else None
        for parameter in (*self.film.parameters(), *([] if self.tilt is None else self.tilt.parameters())):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D + M]."""
        features, conditions = x.float().split([self.features, len(self.ranges)], dim=-1)
        described = self.describe(conditions)
        gain, offset = self.film(described).chunk(2, dim=-1)
        x = self.layers[0]((features - self.shift) * self.scale) * (1.0 + gain) + offset
        for layer in self.layers[1:]:
            x = layer(x.relu())
        return x if self.tilt is None else x + self.tilt(described)

    def describe(self, conditions: Tensor) -> Tensor:
        """Two numbers from -1 to 1 for each condition: [T, M] float to [T, 2M]."""
        parts: list[Tensor] = []
        for index, (low, high) in enumerate(self.ranges):
            value = conditions[:, index : index + 1].clamp(low, high)
            parts.append((value / low).log() * (2.0 / math.log(high / low)) - 1.0)
            parts.append((value - low) * (2.0 / (high - low)) - 1.0)
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def at(self, values: Sequence[float]) -> LinearScorer | MLPScorer:
        """The plain scorer of the features that this is at fixed conditions, worked in float64.

        Args:
            values: M numbers, in the order of the ranges.
        """
        from .dense import LinearScorer, MLPScorer  # they list this scorer with the others

        device = self.shift.device
        described = self.describe(torch.tensor([list(values)], dtype=torch.float64, device=device))
        gain, offset = (self.film.weight.double() @ described[0] + self.film.bias.double()).chunk(2)
        first = cast(nn.Linear, self.layers[0])
        weight = (1.0 + gain).unsqueeze(1) * first.weight.double()
        bias = (1.0 + gain) * first.bias.double() + offset
        if self.tilt is None:
            scorer = LinearScorer(self.features, self.experts).to(device)
            target: LinearScorer | nn.Linear = scorer
        else:
            scorer = MLPScorer(self.features, self.experts, self.hidden).to(device)
            scorer.layers.load_state_dict(self.layers.state_dict())
            last = cast(nn.Linear, scorer.layers[-1])
            last.bias.copy_(last.bias.double() + self.tilt.weight.double() @ described[0])
            target = cast(nn.Linear, scorer.layers[0])
        target.weight.copy_(weight)
        target.bias.copy_(bias)
        scorer.shift.copy_(self.shift)
        scorer.scale.copy_(self.scale)
        return scorer

    def folded(self) -> ConditionedScorer:
        """Return the same function with the standardisation moved into the first layer."""
        from .dense import fold_standardisation

        scorer = ConditionedScorer(self.inputs, self.experts, self.hidden, self.ranges)
        scorer.load_state_dict({**self.state_dict(), "shift": scorer.shift, "scale": scorer.scale})
        first, own = cast(nn.Linear, scorer.layers[0]), cast(nn.Linear, self.layers[0])
        with torch.no_grad():
            weight, bias = fold_standardisation(own.weight, own.bias, self.shift, self.scale)
            first.weight.copy_(weight)
            first.bias.copy_(bias)
        return scorer

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {
            "kind": "conditioned",
            "inputs": self.inputs,
            "experts": self.experts,
            "hidden": list(self.hidden),
            "ranges": [list(pair) for pair in self.ranges],
        }
