"""A scorer of predicted value minus each expert's price, so that new prices need no training.

    z_e = gain * (w_e . x + b_e - c compute_e (v_e . x + u_e))

c, the compute weight, is its last input; `compute`, the experts' means, is a buffer beside the weights. The
predicted compute of a query is that mean times the demand `v_e . x + u_e`, initially 1: a long prompt is more
expensive. The compute weight may change with every call, and `Router.repriced` changes the prices. At a fixed
c the scorer folds into a linear one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..router_error import RouterError
from .dense import LinearScorer
from .scorer import LARGEST, StandardisingScorer, fold_standardisation

__all__ = ["PricedScorer"]


class PricedScorer(StandardisingScorer):
    """Linear in standardised features, minus the compute weight times each expert's predicted compute.

    Args:
        inputs: D + 1, features and then the compute weight.
        experts: N.
        ranges: the lowest and the highest compute weight it was trained for, in a list of one.

    Raises:
        RouterError: the range is not positive and increasing.
    """

    kind: ClassVar[str] = "priced"
    repriceable: ClassVar[bool] = True
    compute: Tensor

    def __init__(self, inputs: int, experts: int, ranges: Sequence[Sequence[float]]) -> None:
        super().__init__(inputs, experts, inputs - 1)
        self.ranges = tuple((float(low), float(high)) for low, high in ranges)
        if len(self.ranges) != 1 or not all(0.0 < low < high < LARGEST for low, high in self.ranges):
            raise RouterError(f"ranges={list(self.ranges)} must be one pair, 0 < lowest < highest")
        self.features = inputs - 1
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
        """The linear scorer of the features at one compute weight, computed in float64.

        Args:
            values: the compute weight, in a list of one.
        """
        scorer = LinearScorer(self.features, self.experts).to(self.shift.device)
        gain, price = self.gain.double(), values[0] * self.compute.double()
        scorer.weight.copy_(gain * (self.weight.double() - price.unsqueeze(1) * self.demand_weight.double()))
        scorer.bias.copy_(gain * (self.bias.double() - price * self.demand_bias.double()))
        scorer.shift.copy_(self.shift)
        scorer.scale.copy_(self.scale)
        return scorer

    @torch.no_grad()
    def repriced(self, compute: Sequence[float]) -> PricedScorer:
        """The same scorer for experts of other costs.

        Args:
            compute: [N], mean compute of each expert in the unit that the scorer was trained in.
        """
        scorer = PricedScorer(self.inputs, self.experts, self.ranges).to(self.shift.device)
        scorer.load_state_dict({**self.state_dict(), "compute": torch.tensor(list(compute))})
        return scorer

    def folded(self) -> PricedScorer:
        """The same function with the standardisation moved into the weights."""
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
            "kind": self.kind,
            "inputs": self.inputs,
            "experts": self.experts,
            "ranges": [list(pair) for pair in self.ranges],
        }
