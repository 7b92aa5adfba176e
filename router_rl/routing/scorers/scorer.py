"""What a scorer is: features in, one logit an expert out, and the hooks that the rest of the toolkit calls.

A new scorer is its file and one line of `registry.py`. It overrides the hooks of what it can do beyond
scoring; no other file asks which class a scorer is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, get_type_hints

import torch
from torch import Tensor, nn

from ..router_error import RouterError

__all__ = ["LARGEST", "LinearForm", "Scorer", "StandardisingScorer", "fold_standardisation"]


LARGEST = torch.finfo(torch.float32).max


class LinearForm(NamedTuple):
    """The weights of `z = x W^T + b` on raw features.

    Attributes:
        weight: [N, D] float32.
        bias: [N] float32.
    """

    weight: Tensor
    bias: Tensor


class Scorer(nn.Module, ABC):
    """Scores inputs; a subclass adds parameters, `forward` and `spec`, and overrides the hooks it has.

    Args:
        inputs: D + S, features and then state.
        experts: N, logits that the selection rule takes.

    Attributes:
        kind: the name in `SCORERS`, and `"kind"` in `router.json`.
        ranges: the lowest and highest trained value of each condition, for scorers whose last inputs are
            conditions (such as the compute weight); empty for others.
        propagates_nonfinite: every input that is not finite makes a logit that is not finite, so a router
            need not look at the inputs.
        standardises: `standardise` has an effect.
        repriceable: `repriced` works.
        standalone: `router_rl/exports/standalone.py` computes it, so the layer formats can write it.
        unsupported: export format to the reason why this scorer has no such form.
        may_be_infinite: names of the parameters that may hold infinities; all others are finite.
    """

    kind: ClassVar[str]
    ranges: tuple[tuple[float, float], ...] = ()
    propagates_nonfinite: ClassVar[bool] = False
    standardises: ClassVar[bool] = False
    repriceable: ClassVar[bool] = False
    standalone: ClassVar[bool] = False
    unsupported: ClassVar[Mapping[str, str]] = {}
    may_be_infinite: ClassVar[tuple[str, ...]] = ()

    def __init__(self, inputs: int, experts: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.experts = experts

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """The types of the fields of `spec` by name, without the kind."""
        return {name: hint for name, hint in get_type_hints(cls.__init__).items() if name != "return"}

    @classmethod
    def from_spec(cls, arguments: Mapping[str, Any]) -> Scorer:
        """Build an untrained scorer from the fields of `spec`.

        Args:
            arguments: the fields by name, without the kind.
        """
        return cls(**arguments)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D + S]."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON: `{"kind": name, ...}`, the arguments of `from_spec` by name."""

    def standardise(self, shift: Tensor, scale: Tensor) -> None:
        """Set how inputs are standardised, `(x - shift) * scale`; no effect unless `standardises`.

        Args:
            shift, scale: [D + S] float; a scorer that standardises features alone reads the first D.
        """

    def folded(self) -> Scorer:
        """The same function with the standardisation in the first layer; itself where there is none."""
        return self

    def at(self, values: Sequence[float]) -> Scorer:
        """Return the scorer of features only, with the conditions fixed at these values.

        Args:
            values: one for each of `ranges`, in order.

        Raises:
            RouterError: the scorer has no conditions.
        """
        raise RouterError("no input of this router can be fixed; train it with conditioned_pg")

    def repriced(self, compute: Sequence[float]) -> Scorer:
        """The same scorer for experts of other costs.

        Args:
            compute: [N], mean compute of each expert in the unit that the scorer was trained in.

        Raises:
            RouterError: the scorer has no prices among its parameters.
        """
        raise RouterError("the experts' prices are not inputs of this router; train it with priced_pg")

    def output_bias(self) -> nn.Parameter | None:
        """The parameter [N] that adds a constant to each logit, for calibration; None where there is none."""
        return None

    def linear_form(self) -> LinearForm | None:
        """The weights of the linear layer that this scorer is, detached; None for any other function."""
        return None


class StandardisingScorer(Scorer):
    """A scorer that standardises its first inputs by the buffers `shift` and `scale`.

    Args:
        inputs, experts: as for `Scorer`.
        standardised: how many of the inputs are standardised; all of them if None.
    """

    standardises: ClassVar[bool] = True
    shift: Tensor
    scale: Tensor

    def __init__(self, inputs: int, experts: int, standardised: int | None = None) -> None:
        super().__init__(inputs, experts)
        size = inputs if standardised is None else standardised
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def standardise(self, shift: Tensor, scale: Tensor) -> None:
        """Set the buffers; inputs beyond them, such as conditions, are taken as they are."""
        size = len(self.shift)
        self.shift.copy_(shift[:size])
        self.scale.copy_(scale[:size])


def fold_standardisation(weight: Tensor, bias: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of one layer that standardises first: `W ((x - shift) * scale) + b = W' x + b'`.

    Args:
        weight: [N, D] float.
        bias: [N] float.
        shift, scale: [D] float.

    Returns:
        W' [N, D] and b' [N], float32; computed in float64, so that they are rounded once.
    """
    wide = weight.double() * scale.double()
    return wide.float(), (bias.double() - wide @ shift.double()).float()
