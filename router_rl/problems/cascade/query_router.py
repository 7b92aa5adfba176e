"""A router of the query as a cascade policy: it asks one expert and returns that answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs import Core

from ...routing import Router
from ...routing.policies.cascade_policy import CascadeView

__all__ = ["AskOnce"]


@dataclass(frozen=True, kw_only=True)
class AskOnce:
    """Asks the expert that a router chooses, and returns its answer.

    Attributes:
        router: of the query's features alone.
        columns: N, the experts and their follow-ups; None: the router's experts.
    """

    router: Router
    columns: int | None = None

    def start(self, core: Core) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Tensor) -> Tensor:
        """Return actions [T] int64 of the environment for observations [T, O] float32."""
        experts = self.columns or len(self.router.experts)
        view = CascadeView.of(observation, experts)
        first = self.router(view.features).experts[:, 0]
        # A stochastic router draws a new expert in every step: the one that was asked answers.
        answer = view.asked.float().argmax(dim=-1)
        return torch.where(view.asked.any(dim=-1), answer + experts, first)
