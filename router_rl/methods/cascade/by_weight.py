"""One policy composed of several, each tuned at one compute weight; the observation has the weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs import Core

from ...problems.problem import Policy

__all__ = ["PolicyByWeight"]


@dataclass(frozen=True, kw_only=True, eq=False)
class PolicyByWeight:
    """Acts by the policy that was tuned at the nearest compute weight.

    Attributes:
        weights: [C] float32, the compute weights.
        policies: one for each weight.
    """

    weights: Tensor
    policies: tuple[Policy, ...]

    def start(self, core: Core) -> None:
        """Prepare each policy."""
        for policy in self.policies:
            policy.start(core)

    def act(self, observation: Tensor) -> Tensor:
        """Return actions [T] int64 for observations [T, O] float32; their last column is the weight."""
        nearest = (observation[:, -1:] - self.weights).abs().argmin(dim=-1)
        actions = torch.zeros(len(observation), dtype=torch.int64)
        for place in nearest.unique().tolist():
            rows = nearest == place
            actions[rows] = self.policies[place].act(observation[rows])
        return actions
