"""Selection rules: one file a rule; `SELECTIONS` maps a rule's name to its class.

It has every rule that a stored router may have. A user can name only those in
`router_rl.problems.rule_names.RULES`: a gate makes the others, such as `scored_topk`.
"""

from __future__ import annotations

import reprlib
from typing import Any, get_type_hints

from ..router_error import RouterError
from ..strict_json import check_type
from .adaptive_k import AdaptiveK
from .expert_choice import ExpertChoice
from .gumbel import gumbel
from .hard import Hard
from .hierarchical import Hierarchical, Tree
from .rule import Choice, Selection
from .scored import ScoredTopK
from .soft import Soft
from .topk import TopK
from .unnormalised import UnnormalisedTopK

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
    "UnnormalisedTopK",
    "gumbel",
    "selection_from_spec",
]

SELECTIONS: dict[str, type[Selection]] = {
    rule.name: rule
    for rule in (Hard, TopK, Soft, Hierarchical, AdaptiveK, ExpertChoice, ScoredTopK, UnnormalisedTopK)
}


def selection_from_spec(spec: dict[str, Any]) -> Selection:
    """Build a rule from its JSON form.

    Args:
        spec: what `Selection.spec` gave.

    Raises:
        RouterError: the rule is unknown or an argument does not fit it.
    """
    arguments = dict(spec)
    name = arguments.pop("rule", None)
    if not isinstance(name, str) or name not in SELECTIONS:
        raise RouterError(f"selection rule {name!r} is unknown; known: {', '.join(sorted(SELECTIONS))}")
    hints = get_type_hints(SELECTIONS[name])
    try:
        for field, value in arguments.items():
            check_type(value, hints.get(field, Any) if field != "tree" else list[Any], f"select.{field}")
    except ValueError as error:
        raise RouterError(str(error)) from error
    try:
        return SELECTIONS[name](**arguments)
    except TypeError as error:
        raise RouterError(
            f"selection rule {name!r} does not take {reprlib.repr(arguments)}: {error}"
        ) from error
