"""Selection rules: one file a rule; `SELECTIONS` maps a rule's name to its class.

It holds every rule that a stored router may have. Those that a user may ask for by name are fewer: some,
such as `scored_topk`, are made by a gate (`router_rl.problems.selection_rules.RULES`).
"""

from __future__ import annotations

from typing import Any

from ..router_error import RouterError
from .adaptive_k import AdaptiveK
from .expert_choice import ExpertChoice
from .gumbel import gumbel
from .hard import Hard
from .hierarchical import Hierarchical, Tree
from .rule import Choice, Selection
from .scored import ScoredTopK
from .soft import Soft
from .topk import TopK

__all__ = [
    "SELECTIONS",
    "AdaptiveK",
    "Choice",
    "ExpertChoice",
    "Hard",
    "Hierarchical",
    "ScoredTopK",
    "Selection",
    "Soft",
    "TopK",
    "Tree",
    "gumbel",
    "selection_from_spec",
]

SELECTIONS: dict[str, type[Selection]] = {
    rule.name: rule for rule in (Hard, TopK, Soft, Hierarchical, AdaptiveK, ExpertChoice, ScoredTopK)
}


def selection_from_spec(spec: dict[str, Any]) -> Selection:
    """Build a rule from its JSON form.

    Raises:
        RouterError: the rule is unknown or a setting does not fit it.
    """
    settings = dict(spec)
    name = settings.pop("rule", None)
    if name not in SELECTIONS:
        raise RouterError(f"selection rule {name!r} is unknown; known: {', '.join(sorted(SELECTIONS))}")
    try:
        return SELECTIONS[name](**settings)
    except TypeError as error:
        raise RouterError(f"selection rule {name!r} does not take {settings}: {error}") from error
