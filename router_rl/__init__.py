"""Learn which frozen expert should do the work: routers trained by reinforcement learning.

The names below load when they are first used, so that importing this package loads nothing heavy and
`router_rl.routing` needs torch alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exports import export
    from .exports.check_router import check_router
    from .methods.fit import fit
    from .problems.caching.problem import CachingProblem
    from .problems.cascade.problem import CascadeProblem
    from .problems.objective import Objective
    from .problems.queueing.problem import QueueingProblem
    from .problems.routing.problem import RoutingProblem
    from .problems.routing.routing_options import RoutingOptions, ScorerConfig
    from .problems.session.problem import SessionProblem
    from .problems.token_moe.problem import TokenMoEProblem
    from .studies.compare import Study, compare
    from .studies.engines.jobs import Jobs
    from .studies.tracking.tracked import Tracked
    from .studies.tuning.tune import tune
    from .studies.tuning.tune_options import SearchOptions, TuneBudget

    __version__: str

__all__ = [
    "CachingProblem",
    "CascadeProblem",
    "Jobs",
    "Objective",
    "QueueingProblem",
    "RoutingOptions",
    "RoutingProblem",
    "ScorerConfig",
    "SearchOptions",
    "SessionProblem",
    "Study",
    "TokenMoEProblem",
    "Tracked",
    "TuneBudget",
    "__version__",
    "check_router",
    "compare",
    "export",
    "fit",
    "tune",
]

_HOMES = {
    "CachingProblem": ".problems.caching.problem",
    "CascadeProblem": ".problems.cascade.problem",
    "Jobs": ".studies.engines.jobs",
    "Objective": ".problems.objective",
    "QueueingProblem": ".problems.queueing.problem",
    "RoutingOptions": ".problems.routing.routing_options",
    "RoutingProblem": ".problems.routing.problem",
    "ScorerConfig": ".problems.routing.routing_options",
    "SearchOptions": ".studies.tuning.tune_options",
    "SessionProblem": ".problems.session.problem",
    "Study": ".studies.compare",
    "TokenMoEProblem": ".problems.token_moe.problem",
    "Tracked": ".studies.tracking.tracked",
    "TuneBudget": ".studies.tuning.tune_options",
    "check_router": ".exports.check_router",
    "compare": ".studies.compare",
    "export": ".exports",
    "fit": ".methods.fit",
    "tune": ".studies.tuning.tune",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("router-rl")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
