"""A scorer that knows what each expert takes: worth less price, so that a new price needs no training.

    z_e = gain * (w_e . x + b_e - c compute_e (v_e . x + u_e))

with c, the compute weight, as its last input and `compute`, the experts' means, a buffer beside the weights.
What the query takes of an expert is that mean times its demand `v_e . x + u_e`, 1 where nothing is known: a
long prompt is dearer. The trade-off may change with every call, and prices by setting the buffer
(`Router.repriced`). Fixed at one c it folds to a plain linear scorer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..router_error import RouterError

if TYPE_CHECKING:
    from .dense import LinearScorer

__all__ = ["PricedScorer"]


class PricedScorer(nn.Module):
    """Linear in standardised features, less the compute weight times what the query takes of each expert.

    Args:
        inputs: D + 1, features and then the compute weight.
        experts: N.
        ranges: the lowest and the highest compute weight it was trained for, in a list of one.

    Raises:
        RouterError: the range is not positive and rising.
    """

    shift: Tensor
    scale: Tensor
    compute: Tensor

    def __init__(self, inputs: int, experts: int, ranges: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.ranges = tuple((float(low), float(high)) for low, high in ranges)
        if len(self.ranges) != 1 or not all(0.0 < low < high < math.inf for low, high in self.ranges):
            raise RouterError(f"ranges={list(self.ranges)} must be one pair, 0 < lowest < highest")
        self.inputs = inputs
        self.experts = experts
        self.features = inputs - 1
        self.register_buffer("shift", torch.zeros(self.features))
        self.register_buffer("scale", torch.ones(self.features))
        self.register_buffer("compute", torch.zeros(experts))
        self.weight = nn.Parameter(torch.zeros(experts, self.features))
        self.bias = nn.Parameter(torch.zeros(experts))
        self.demand_weight = nn.Parameter(torch.zeros(experts, self.features))
        self.demand_bias = nn.Parameter(torch.ones(experts))
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D + 1]."""
        features, weight = x.float().split([self.features, 1], dim=-1)
        scaled = (features - self.shift) * self.scale
        demand = F.linear(scaled, self.demand_weight, self.demand_bias)
        return self.gain * (F.linear(scaled, self.weight, self.bias) - weight * self.compute * demand)

    @torch.no_grad()
    def at(self, values: Sequence[float]) -> LinearScorer:
        """The linear scorer of the features that this is at one compute weight, worked in float64."""
        from .dense import LinearScorer  # it lists this scorer with the others

        scorer = LinearScorer(self.features, self.experts).to(self.shift.device)
        gain, price = self.gain.double(), values[0] * self.compute.double()
        scorer.weight.copy_(gain * (self.weight.double() - price.unsqueeze(1) * self.demand_weight.double()))
        scorer.bias.copy_(gain * (self.bias.double() - price * self.demand_bias.double()))
        scorer.shift.copy_(self.shift)
        scorer.scale.copy_(self.scale)
        return scorer

    @torch.no_grad()
    def repriced(self, compute: Sequence[float]) -> PricedScorer:
        """The same scorer where experts take other amounts of compute on average, N of them."""
        scorer = PricedScorer(self.inputs, self.experts, self.ranges).to(self.shift.device)
        scorer.load_state_dict({**self.state_dict(), "compute": torch.tensor(list(compute))})
        return scorer

    def folded(self) -> PricedScorer:
        """Return the same function with the standardisation moved into the weights."""
        from .dense import fold_standardisation

        scorer = PricedScorer(self.inputs, self.experts, self.ranges)
        scorer.load_state_dict({**self.state_dict(), "shift": scorer.shift, "scale": scorer.scale})
        with torch.no_grad():
            for name in ("", "demand_"):
                old = self.get_parameter(f"{name}weight"), self.get_parameter(f"{name}bias")
                weight, bias = fold_standardisation(*old, self.shift, self.scale)
                scorer.get_parameter(f"{name}weight").copy_(weight)
                scorer.get_parameter(f"{name}bias").copy_(bias)
        return scorer

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {
            "kind": "priced",
            "inputs": self.inputs,
            "experts": self.experts,
            "ranges": [list(pair) for pair in self.ranges],
        }
