"""The logits of a network policy as a router's scorer, and the constants of its training."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..router import Router
from ..scorers.queue_scorer import QueueConstants
from ..scorers.scorer import Scorer
from ..scorers.server_scorer import ServerConstants
from .network_policy import NetworkPolicy

__all__ = ["NetworkScorer", "network_policy_of"]


class NetworkScorer(Scorer):
    """The logits of a network policy whose action is an expert.

    Args:
        policy: with one choice for each expert.
    """

    kind = "network"

    def __init__(self, policy: NetworkPolicy) -> None:
        super().__init__(policy.observation_size, len(policy.experts))
        self.policy = policy

    @property
    def queues(self) -> QueueConstants | None:
        """The constants of the queues that the policy was trained on; None for other problems."""
        constants = self.policy.constants
        return constants if isinstance(constants, QueueConstants) else None

    @property
    def servers(self) -> ServerConstants | None:
        """The constants of the model servers that the policy was trained on; None for other problems."""
        constants = self.policy.constants
        return constants if isinstance(constants, ServerConstants) else None

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of observations [T, O]."""
        return self.policy(x)

    def spec(self) -> dict[str, Any]:
        """Return the policy's description."""
        return {"kind": self.kind, **self.policy.spec()}


def network_policy_of(router: Router) -> NetworkPolicy | None:
    """Return the policy of a router that `network_router` returned; None for any other router."""
    return router.scorer.policy if isinstance(router.scorer, NetworkScorer) else None
