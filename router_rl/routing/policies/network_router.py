"""A network policy of queues or model servers in the form of a router, whose second input is their state."""

from __future__ import annotations

from ..router import Router
from ..router_error import RouterError
from ..scorers.queue_scorer import QueueConstants
from ..selection import Hard
from .live_queues import queue_state_inputs, server_state_inputs
from .network_policy import NetworkPolicy
from .network_scorer import NetworkScorer

__all__ = ["network_router"]


def network_router(policy: NetworkPolicy) -> Router:
    """Return a router that chooses the policy's most probable expert.

    Masks leave out experts. The softmax of `logits` is the policy's probabilities of the other experts.

    Args:
        policy: reads observations [T, D + 3 N + 6] of queues, or [T, D + 7 N + 8] of model servers, which are
            the router's features and state.

    Raises:
        RouterError: the policy has no constants of queues or servers, or its sizes are not theirs.
    """
    if policy.constants is None:
        raise RouterError(
            "the network policy has no constants of queues, because another problem or an earlier release "
            "trained it"
        )
    inputs = queue_state_inputs if isinstance(policy.constants, QueueConstants) else server_state_inputs
    state, count = inputs(policy.experts), len(policy.experts)
    size = policy.features + sum(part.size for part in state)
    if policy.observation_size != size or policy.choices != (count,):
        raise RouterError(
            f"the network policy has {policy.observation_size} inputs and {list(policy.choices)} choices, "
            f"but its queues have {size} and [{count}]"
        )
    return Router(NetworkScorer(policy), Hard(), policy.experts, state=state, text=policy.text).eval()
