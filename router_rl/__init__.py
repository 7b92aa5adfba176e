"""Learn which frozen expert should do the work.

The names below load when first used, so that `router_rl.routing` needs torch alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exports import export
    from .exports.check_router import check_router
    from .methods.fit import fit
    from .methods.registry import METHODS
    from .problems.objective import Objective
    from .problems.routing.problem import ScorerConfig
    from .studies.compare import compare

    __version__: str

__all__ = ["METHODS", "Objective", "ScorerConfig", "__version__", "check_router", "compare", "export", "fit"]

_HOMES = {
    "METHODS": ".methods.registry",
    "Objective": ".problems.objective",
    "ScorerConfig": ".problems.routing.problem",
    "check_router": ".exports.check_router",
    "compare": ".studies.compare",
    "export": ".exports",
    "fit": ".methods.fit",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":  # of the installed distribution
        return import_module("importlib.metadata").version("router-rl")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
