"""A rule and a learned correction: a frozen scorer's logits, scaled, plus an MLP of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from .dense import MLPScorer
from .scorer import Scorer

__all__ = ["ResidualScorer"]


class ResidualScorer(Scorer):
    """`z = inverse_temperature * base(x) + mlp(x, state)`; the MLP starts at zero, so z starts as the rule.

    Args:
        inputs: D + S, features and then state; the base reads the features alone.
        experts: N.
        base: scorer of D inputs and N logits; it is frozen.
        hidden: width of each hidden layer of the MLP.
        inverse_temperature: scale of the base's logits, above 0.
    """

    kind: ClassVar[str] = "residual"
    standardises: ClassVar[bool] = True

    def __init__(
        self,
        inputs: int,
        experts: int,
        base: Scorer,
        hidden: Sequence[int] = (64,),
        inverse_temperature: float = 1.0,
    ) -> None:
        super().__init__(inputs, experts)
        self.base = base.requires_grad_(False)
        self.inverse_temperature = inverse_temperature
        self.correction = MLPScorer(inputs, experts, hidden)
        last = self.correction.layers[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of inputs [T, D + S]."""
        base: Tensor = self.base(x[:, : self.base.inputs])
        correction: Tensor = self.correction(x)
        return self.inverse_temperature * base + correction

    def standardise(self, shift: Tensor, scale: Tensor) -> None:
        """Set how the MLP and the base standardise their inputs."""
        self.correction.standardise(shift, scale)
        self.base.standardise(shift, scale)

    def folded(self) -> ResidualScorer:
        """The same function with the standardisation moved into the first layers that have one."""
        scorer = ResidualScorer(
            self.inputs, self.experts, self.base.folded(), self.correction.hidden, self.inverse_temperature
        )
        scorer.correction = self.correction.folded()
        return scorer

    def output_bias(self) -> nn.Parameter:
        """The bias [N] of the MLP's last layer."""
        return self.correction.output_bias()

    def spec(self) -> dict[str, Any]:
        """The scorer's shape as JSON."""
        return {
            "kind": self.kind,
            "inputs": self.inputs,
            "experts": self.experts,
            "base": self.base.spec(),
            "hidden": list(self.correction.hidden),
            "inverse_temperature": self.inverse_temperature,
        }
