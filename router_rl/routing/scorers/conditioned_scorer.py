"""A scorer that takes the trade-off as an input: one network for every compute weight, folded at any of them.

Each condition c (the compute weight; optionally the load weight) becomes two numbers from -1 to 1: its place
in the range [low, high] on a logarithmic and on a linear scale. They act on the network in two places that
are linear in its weights, so that a fixed c folds into the weights exactly:

    h = relu((1 + gamma(c)) * (W1 x + b1) + beta(c))    FiLM (Perez et al. 2018, eq. 1) on the first layer
    z = W2 h + b2 + tilt(c)                             a bias for each expert

A linear scorer needs gamma to change the scale of its logits; for an MLP, the tilt has most of the effect.

Source: FiLM, https://arxiv.org/abs/1709.07871.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..router_error import RouterError
from .dense import LinearScorer, MLPScorer
from .scorer import LARGEST, StandardisingScorer, fold_standardisation

__all__ = ["ConditionedScorer"]


class ConditionedScorer(StandardisingScorer):
    """A linear or ReLU network on standardised features, modulated by conditions.

    At initialisation the conditions have no effect.

    Args:
        inputs: D + M, features and then conditions.
        experts: N.
        hidden: width of each hidden layer; empty for a linear scorer.
        ranges: the lowest and the highest value of each condition; a value outside is clamped.

    Raises:
        RouterError: there is no feature or no condition, or a range is not positive and increasing.
    """

    kind: ClassVar[str] = "conditioned"

    def __init__(
        self, inputs: int, experts: int, hidden: Sequence[int], ranges: Sequence[Sequence[float]]
    ) -> None:
        if not 0 < len(ranges) < inputs:
            raise RouterError(f"{inputs} inputs with {len(ranges)} conditions: give one of each, or more")
        super().__init__(inputs, experts, inputs - len(ranges))
        self.ranges = tuple((float(low), float(high)) for low, high in ranges)
        if not all(0.0 < low < high < LARGEST for low, high in self.ranges):
            raise RouterError(f"ranges={list(self.ranges)} must each be 0 < lowest < highest")
        self.hidden = tuple(hidden)
        self.features = inputs - len(self.ranges)
        widths = (self.features, *self.hidden, experts)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.film = nn.Linear(2 * len(self.ranges), 2 * widths[1])
        self.tilt = nn.Linear(2 * len(self.ranges), experts, bias=False) if self.hidden else None
        for parameter in (*self.film.parameters(), *([] if self.tilt is None else self.tilt.parameters())):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D + M]."""
        features, conditions = x.float().split([self.features, len(self.ranges)], dim=-1)
        encoded = self.encode(conditions)
        gain, offset = self.film(encoded).chunk(2, dim=-1)
        x = self.layers[0]((features - self.shift) * self.scale) * (1.0 + gain) + offset
        for layer in self.layers[1:]:
            x = layer(x.relu())
        return x if self.tilt is None else x + self.tilt(encoded)

    def encode(self, conditions: Tensor) -> Tensor:
        """Two numbers from -1 to 1 for each condition: [T, M] float to [T, 2 M]."""
        parts: list[Tensor] = []
        for index, (low, high) in enumerate(self.ranges):
            value = conditions[:, index : index + 1].clamp(low, high)
            parts.append((value / low).log() * (2.0 / math.log(high / low)) - 1.0)
            parts.append((value - low) * (2.0 / (high - low)) - 1.0)
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def at(self, values: Sequence[float]) -> LinearScorer | MLPScorer:
        """The plain scorer of the features at fixed conditions, computed in float64.

        Args:
            values: M numbers, in the order of the ranges.
        """
        device = self.shift.device
        encoded = self.encode(torch.tensor([list(values)], dtype=torch.float64, device=device))
        gain, offset = (self.film.weight.double() @ encoded[0] + self.film.bias.double()).chunk(2)
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
            last.bias.copy_(last.bias.double() + self.tilt.weight.double() @ encoded[0])
            target = cast(nn.Linear, scorer.layers[0])
        target.weight.copy_(weight)
        target.bias.copy_(bias)
        scorer.shift.copy_(self.shift)
        scorer.scale.copy_(self.scale)
        return scorer

    def folded(self) -> ConditionedScorer:
        """The same function with the standardisation moved into the first layer."""
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
            "kind": self.kind,
            "inputs": self.inputs,
            "experts": self.experts,
            "hidden": list(self.hidden),
            "ranges": [list(pair) for pair in self.ranges],
        }
