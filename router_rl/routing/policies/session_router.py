"""A session policy in the form of a router, whose second input is the state of the conversation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..router import Router, StateInput
from ..scorers.scorer import Scorer
from ..selection import Hard
from .session_policy import SessionPolicy

__all__ = ["session_policy_of", "session_router"]


def session_router(policy: SessionPolicy) -> Router:
    """Return a router that chooses the policy's expert; masks leave out experts, and `logits` are its scores.

    Args:
        policy: reads observations [T, D + 5 N + 4], which are the router's features and state.
    """
    state = _state_inputs(policy)
    return Router(_SessionScorer(policy), Hard(), policy.experts, state=state, text=policy.text).eval()


def session_policy_of(router: Router) -> SessionPolicy | None:
    """Return the policy of a router that `session_router` returned; None for any other router."""
    return router.scorer.policy if isinstance(router.scorer, _SessionScorer) else None


def _state_inputs(policy: SessionPolicy) -> tuple[StateInput, ...]:
    """Return the parts of the second input, 5 N + 4 numbers: `SessionPolicy.observe` without the features."""
    names, count = policy.experts, len(policy.experts)
    return (
        StateInput("cached", count, "share of the prompt that is in each expert's cache", names),
        StateInput("idle", count, "time since each expert was used, over the life of its cache", names),
        StateInput("last", count, "1 for the expert of the turn before, else 0", names),
        StateInput("cost", count, "compute of answering with each expert now", names),
        StateInput("warm_cost", count, "the same if the expert had answered the turn before", names),
        StateInput("context", 1, "base-2 logarithm of the tokens of the prompt"),
        StateInput("reused", 1, "share of the prompt that the prompt before had too"),
        StateInput("turn", 1, "turns before this one"),
        StateInput("switches", 1, "times that the expert changed in this conversation"),
    )


class _SessionScorer(Scorer):
    """The scores of a session policy."""

    kind = "session"

    def __init__(self, policy: SessionPolicy) -> None:
        super().__init__(policy.observation_size, len(policy.experts))
        self.policy = policy

    def forward(self, x: Tensor) -> Tensor:
        """Scores [T, N] of observations [T, D + 5 N + 4]."""
        return self.policy.observed_scores(x)

    def spec(self) -> dict[str, Any]:
        """Return the policy's description."""
        return {"kind": self.kind, **self.policy.spec()}
