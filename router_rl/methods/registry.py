"""Every method by its name on the command line."""

from __future__ import annotations

from experts.io.errors import unknown_name

from .agents.registry import AGENTS
from .baselines.registry import BASELINES
from .gates.registry import GATES
from .method import Method

__all__ = ["METHODS", "ORACLE", "find_method"]

# The oracle knows the outcomes, so it is measured, not fitted; it is named with the methods all the same.
ORACLE = "oracle"

METHODS: dict[str, Method] = {**AGENTS, **GATES, **BASELINES}


def find_method(name: str) -> Method:
    """Look a method up.

    Raises:
        InputError: unknown; suggests the nearest name.
    """
    if name not in METHODS:
        raise unknown_name("method", name, [*METHODS, ORACLE])
    return METHODS[name]
