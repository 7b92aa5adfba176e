"""Dense scorers: linear, MLP, and constant logits.

Linear and MLP scorers standardise their input with the buffers `shift` and `scale` (`(x - shift) * scale`),
so that a policy trains on well-scaled features while its user passes raw ones. `folded()` moves both into the
first layer, which is the form of a stock gate. A folded scorer is `plain`: it skips the standardisation and
saves two passes over the input.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .scorer import LinearForm, Scorer, StandardisingScorer, fold_standardisation

__all__ = ["ConstantScorer", "LinearScorer", "MLPScorer"]


class LinearScorer(StandardisingScorer):
    """`z = ((x - shift) * scale) W^T + b`: the gate of every stock mixture-of-experts runtime.

    Args:
        inputs: D, features plus state.
        experts: N.
        bias: False keeps bias and shift at 0, as stock gates without a bias need it.
    """

    kind: ClassVar[str] = "linear"
    propagates_nonfinite: ClassVar[bool] = True
    standalone: ClassVar[bool] = True
    plain = False

    def __init__(self, inputs: int, experts: int, *, bias: bool = True) -> None:
        super().__init__(inputs, experts)
        self.weight = nn.Parameter(torch.zeros(experts, inputs))
        self.bias = nn.Parameter(torch.zeros(experts), requires_grad=bias)
        self._has_bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D]."""
        x = x.float()
        return F.linear(x if self.plain else (x - self.shift) * self.scale, self.weight, self.bias)

    def standardise(self, shift: Tensor, scale: Tensor) -> None:
        """Set the buffers; without a bias the inputs are scaled only, since a shift folds into one."""
        super().standardise(shift if self._has_bias else torch.zeros_like(shift), scale)

    def folded(self) -> LinearScorer:
        """The same function with shift 0 and scale 1, as a bare weight and bias."""
        scorer = LinearScorer(self.inputs, self.experts)
        scorer.plain = True
        with torch.no_grad():
            weight, bias = fold_standardisation(self.weight, self.bias, self.shift, self.scale)
            scorer.weight.copy_(weight)
            scorer.bias.copy_(bias)
        return scorer

    def output_bias(self) -> nn.Parameter | None:
        """The bias [N]; None for a scorer without."""
        return self.bias if self._has_bias else None

    def linear_form(self) -> LinearForm:
        """The folded weight [N, D] and bias [N]."""
        folded = self.folded()
        return LinearForm(folded.weight.detach(), folded.bias.detach())

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {"kind": self.kind, "inputs": self.inputs, "experts": self.experts}


class MLPScorer(StandardisingScorer):
    """A small ReLU network on standardised inputs.

    Args:
        inputs: D, features plus state.
        experts: N.
        hidden: width of each hidden layer.
    """

    kind: ClassVar[str] = "mlp"
    standalone: ClassVar[bool] = True
    plain = False

    def __init__(self, inputs: int, experts: int, hidden: Sequence[int] = (64,)) -> None:
        super().__init__(inputs, experts)
        self.hidden = tuple(hidden)
        widths = (inputs, *self.hidden, experts)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D]."""
        x = x.float() if self.plain else (x.float() - self.shift) * self.scale
        *hidden, last = self.layers  # a slice would be a new module with every call
        for layer in hidden:
            x = layer(x).relu()
        return cast(Tensor, last(x))

    def folded(self) -> MLPScorer:
        """The same function with shift 0 and scale 1, both moved into the first layer."""
        scorer = MLPScorer(self.inputs, self.experts, self.hidden)
        scorer.plain = True
        scorer.load_state_dict({**self.state_dict(), "shift": scorer.shift, "scale": scorer.scale})
        first = cast(nn.Linear, scorer.layers[0])
        with torch.no_grad():
            weight, bias = fold_standardisation(first.weight, first.bias, self.shift, self.scale)
            first.weight.copy_(weight)
            first.bias.copy_(bias)
        return scorer

    def output_bias(self) -> nn.Parameter:
        """The bias [N] of the last layer."""
        return cast(nn.Linear, self.layers[-1]).bias

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {
            "kind": self.kind,
            "inputs": self.inputs,
            "experts": self.experts,
            "hidden": list(self.hidden),
        }


class ConstantScorer(Scorer):
    """The same logits for every query: best-single-expert, random and zero routers.

    Args:
        inputs: D; the inputs are not read, only their rows are counted.
        experts: N.
    """

    kind: ClassVar[str] = "constant"
    standalone: ClassVar[bool] = True

    def __init__(self, inputs: int, experts: int) -> None:
        super().__init__(inputs, experts)
        self.logits = nn.Parameter(torch.zeros(experts), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32, every row the same."""
        return self.logits.expand(x.shape[0], -1)

    def output_bias(self) -> nn.Parameter:
        """The logits [N] themselves."""
        return self.logits

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {"kind": self.kind, "inputs": self.inputs, "experts": self.experts}
