"""Fix the weights of a conditioned router to those of one objective."""

from __future__ import annotations

from ...routing import Router
from ..objective import Objective

__all__ = ["for_objective"]

_CONDITIONS = ("compute_weight", "load_weight")


def for_objective(router: Router, objective: Objective) -> Router:
    """Return the router for an objective: a conditioned router gets its weights, others are unchanged.

    Args:
        router: a router whose state may include weights of the objective.
        objective: gives the weights.
    """
    weights = {part.name: getattr(objective, part.name) for part in router.state if part.name in _CONDITIONS}
    return router.at(**weights) if weights else router
