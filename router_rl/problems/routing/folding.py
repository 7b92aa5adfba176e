"""A conditioned router at the weights of one objective."""

from __future__ import annotations

from ...routing import Router
from ..objective import Objective

__all__ = ["for_objective"]

_CONDITIONS = ("compute_weight", "load_weight")


def for_objective(router: Router, objective: Objective) -> Router:
    """The router that serves an objective: a conditioned one is folded at its weights, others stay.

    Args:
        router: one whose state may hold weights of the objective.
        objective: gives the weights.
    """
    weights = {part.name: getattr(objective, part.name) for part in router.state if part.name in _CONDITIONS}
    return router.at(**weights) if weights else router
