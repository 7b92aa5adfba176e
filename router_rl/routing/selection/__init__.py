"""Selection rules: one file a rule; `SELECTIONS` maps a rule's name to its class."""

from __future__ import annotations

from typing import Any

from ..errors import RouterError
from .base import Choice, Selection
from .gumbel import gumbel
from .hard import Hard
from .topk import TopK

__all__ = ["SELECTIONS", "Choice", "Hard", "Selection", "TopK", "gumbel", "selection_from_spec"]

SELECTIONS: dict[str, type[Hard] | type[TopK]] = {"hard": Hard, "topk": TopK}


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
