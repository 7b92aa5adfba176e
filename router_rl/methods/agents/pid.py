"""A PID controller for the multiplier of a constraint (Stooke, Achiam, Abbeel 2020, section 4, algorithm 2).

The Lagrange multiplier of `max E[quality] s.t. E[compute] <= B` is usually moved by gradient ascent, which is
integral control alone: it overshoots and swings. A proportional and a derivative term damp it.

Source: https://arxiv.org/abs/2007.03964.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["PID"]


class PID(nn.Module):
    """The controller; its state is in buffers, so that a checkpoint holds it.

        delta = cost - budget;  I = (I + delta)+;  D = (cost - cost before)+
        multiplier = (K_P delta + K_I I + K_D D)+

    Args:
        budget: what the cost must not exceed.
        start: the multiplier before the first update.
        proportional, integral, derivative: the gains K_P, K_I and K_D. The defaults suit a budget of 1 and
            a quality of at most 1, moved once a minibatch.
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
        self.register_buffer("before", torch.tensor(float("inf")))  # the first cost has not risen

    @torch.no_grad()
    def update(self, cost: Tensor) -> Tensor:
        """The multiplier, [] float32, after a cost [] float32 was measured."""
        proportional, integral, derivative = self._gains
        delta = cost - self._budget
        self.total.copy_((self.total + delta).clamp(min=0.0))
        rise = (cost - self.before).clamp(min=0.0)
        self.before.copy_(cost)
        return (proportional * delta + integral * self.total + derivative * rise).clamp(min=0.0)
