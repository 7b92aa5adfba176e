"""`list`: the names that the other commands take."""

from __future__ import annotations

from typing import Any

from experts import SOURCES

from ..exports import FORMATS
from ..problems.selection_rules import RULES

__all__ = ["list_names"]


def list_names() -> dict[str, Any]:
    """Print the names of methods, selection rules, environments, sources and export formats."""
    from envs import ENVS

    from ..methods.environments import KINDS
    from ..methods.registry import METHODS, ORACLE

    return {
        "methods": [*METHODS, ORACLE],
        "selections": list(RULES),
        "envs": list(ENVS),
        **{f"methods of {name}": list(kind.methods) for name, kind in KINDS.items()},
        "sources": list(SOURCES),
        "formats": list(FORMATS),
    }
