"""Learn which frozen expert should do the work.

The names below load when first used, so that `router_rl.routing` needs torch alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .check import check_router
    from .evaluation.compare import compare
    from .exports import export
    from .fitting import fit
    from .methods import METHODS
    from .objective import Objective
    from .task import ScorerConfig

__all__ = ["METHODS", "Objective", "ScorerConfig", "check_router", "compare", "export", "fit"]

_HOMES = {
    "METHODS": ".methods",
    "Objective": ".objective",
    "ScorerConfig": ".task",
    "check_router": ".check",
    "compare": ".evaluation.compare",
    "export": ".exports",
    "fit": ".fitting",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
