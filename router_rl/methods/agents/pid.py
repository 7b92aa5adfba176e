"""PID controller of a constraint's Lagrange multiplier (Stooke, Achiam, Abbeel 2020, section 4, algorithm 2).

The multiplier of `max E[quality] s.t. E[compute] <= B` is usually updated by gradient ascent. That is purely
integral control, which overshoots and oscillates. A proportional and a derivative term damp it.

Source: https://arxiv.org/abs/2007.03964.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["PID"]


class PID(nn.Module):
    """PID controller of a Lagrange multiplier. Its state is in buffers, so that checkpoints include it.

        delta = cost - budget;  I = (I + delta)+;  D = (cost - previous cost)+
        multiplier = (K_P delta + K_I I + K_D D)+

    Args:
        budget: upper bound of the cost.
        start: multiplier before the first update.
        proportional: gain K_P. The default gains suit a budget of 1, quality of at most 1 and one update per
            minibatch.
        integral: gain K_I.
        derivative: gain K_D.
    """

    total: Tensor
    before: Tensor

    def __init__(
        self,
        budget: float,
        start: float,
        *,
        proportional: float = 0.05,
        integral: float = 0.002,
        derivative: float = 0.02,
    ) -> None:
        super().__init__()
        self._budget = budget
        self._gains = (proportional, integral, derivative)
        self.register_buffer("total", torch.tensor(start / integral))
        self.register_buffer(
            "before", torch.tensor(float("inf"))
        )  # so that the first update has no derivative term

    @torch.no_grad()
    def update(self, cost: Tensor) -> Tensor:
        """Return the multiplier, [] float32, after observing a cost, [] float32."""
        proportional, integral, derivative = self._gains
        delta = cost - self._budget
        self.total.copy_((self.total + delta).clamp(min=0.0))
        rise = (cost - self.before).clamp(min=0.0)
        self.before.copy_(cost)
        return (proportional * delta + integral * self.total + derivative * rise).clamp(min=0.0)
