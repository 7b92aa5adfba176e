"""Scorers: features in, one logit an expert out.

Every scorer standardises its input with the buffers `shift` and `scale` (`(x - shift) * scale`), so that a
policy trains on well-scaled features while its user passes raw ones. `folded()` moves the two into the
first layer: that is the form stock gates take. A scorer that `folded()` made is `plain`: it has nothing left
to standardise and saves the two passes over its input.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..router_error import RouterError
from .conditioned_scorer import ConditionedScorer
from .hash_scorer import HashScorer
from .knn_scorer import KNNScorer
from .priced_scorer import PricedScorer
from .queue_scorer import QueueScorer

__all__ = [
    "SCORERS",
    "ConstantScorer",
    "LinearScorer",
    "MLPScorer",
    "Scorer",
    "fold_standardisation",
    "scorer_from_spec",
]


class Scorer(Protocol):
    """What a router asks of its scorer."""

    inputs: int
    experts: int

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D]."""
        ...

    def folded(self) -> Scorer:
        """The same function with the standardisation moved into the first layer, where there is one."""
        ...

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON: `{"kind": name, ...}`."""
        ...


class LinearScorer(nn.Module):
    """`z = ((x - shift) * scale) W^T + b`: the gate of every stock mixture-of-experts runtime.

    Args:
        inputs: D, features plus state.
        experts: N.
    """

    shift: Tensor
    scale: Tensor
    plain = False

    def __init__(self, inputs: int, experts: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.experts = experts
        self.register_buffer("shift", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.weight = nn.Parameter(torch.zeros(experts, inputs))
        self.bias = nn.Parameter(torch.zeros(experts))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D]."""
        x = x.float()
        return F.linear(x if self.plain else (x - self.shift) * self.scale, self.weight, self.bias)

    def folded(self) -> LinearScorer:
        """Return the same function with shift 0 and scale 1, as a bare weight and bias."""
        scorer = LinearScorer(self.inputs, self.experts)
        scorer.plain = True
        with torch.no_grad():
            weight, bias = fold_standardisation(self.weight, self.bias, self.shift, self.scale)
            scorer.weight.copy_(weight)
            scorer.bias.copy_(bias)
        return scorer

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {"kind": "linear", "inputs": self.inputs, "experts": self.experts}


class MLPScorer(nn.Module):
    """A small ReLU network on standardised inputs.

    Args:
        inputs: D, features plus state.
        experts: N.
        hidden: width of each hidden layer.
    """

    shift: Tensor
    scale: Tensor
    plain = False

    def __init__(self, inputs: int, experts: int, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        self.inputs = inputs
        self.experts = experts
        self.hidden = tuple(hidden)
        self.register_buffer("shift", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
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
        """Return the same function with shift 0 and scale 1, the two moved into the first layer."""
        scorer = MLPScorer(self.inputs, self.experts, self.hidden)
        scorer.plain = True
        scorer.load_state_dict({**self.state_dict(), "shift": scorer.shift, "scale": scorer.scale})
        first = cast(nn.Linear, scorer.layers[0])
        with torch.no_grad():
            weight, bias = fold_standardisation(first.weight, first.bias, self.shift, self.scale)
            first.weight.copy_(weight)
            first.bias.copy_(bias)
        return scorer

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {
            "kind": "mlp",
            "inputs": self.inputs,
            "experts": self.experts,
            "hidden": list(self.hidden),
        }


class ConstantScorer(nn.Module):
    """The same logits for every query: best single expert, random and Zero routers.

    Args:
        inputs: D; the inputs are not read, only their rows counted.
        experts: N.
    """

    def __init__(self, inputs: int, experts: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.experts = experts
        self.logits = nn.Parameter(torch.zeros(experts), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32, every row the same."""
        return self.logits.expand(x.shape[0], -1)

    def folded(self) -> ConstantScorer:
        """Return itself: there is nothing to fold."""
        return self

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {"kind": "constant", "inputs": self.inputs, "experts": self.experts}


SCORERS: dict[str, Callable[..., nn.Module]] = {
    "linear": LinearScorer,
    "mlp": MLPScorer,
    "constant": ConstantScorer,
    "conditioned": ConditionedScorer,
    "priced": PricedScorer,
    "knn": KNNScorer,
    "hash": HashScorer,
    "queue": QueueScorer,
}


def scorer_from_spec(spec: dict[str, Any]) -> nn.Module:
    """Build an untrained scorer from its JSON form.

    Raises:
        RouterError: the kind is unknown or a setting does not fit it.
    """
    settings = dict(spec)
    kind = settings.pop("kind", None)
    if kind not in SCORERS:
        raise RouterError(f"scorer {kind!r} is unknown; known: {', '.join(sorted(SCORERS))}")
    try:
        return SCORERS[kind](**settings)
    except TypeError as error:
        raise RouterError(f"scorer {kind!r} does not take {settings}: {error}") from error


def fold_standardisation(weight: Tensor, bias: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """`W ((x - shift) * scale) + b = W' x + b'`, worked in float64: one rounding, not three."""
    wide = weight.double() * scale.double()
    return wide.float(), (bias.double() - wide @ shift.double()).float()
