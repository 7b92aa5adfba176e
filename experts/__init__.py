"""Frozen experts, and tables of what each of them did on each query.

The names below are imported when first used: `import experts` loads neither torch nor pyarrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .io.errors import InputError
    from .pool.costs import Profile
    from .pool.expert_pool import Expert, ExpertPool
    from .readers.importing import import_results
    from .sources.collect import collect
    from .sources.open_table import open_table
    from .sources.registry import SOURCES
    from .table.decision_log import DecisionLog, epsilon_greedy, log_decisions
    from .table.outcome_table import OutcomeTable
    from .table.prices import read_prices, reprice

__all__ = [
    "SOURCES",
    "DecisionLog",
    "Expert",
    "ExpertPool",
    "InputError",
    "OutcomeTable",
    "Profile",
    "collect",
    "epsilon_greedy",
    "import_results",
    "log_decisions",
    "open_table",
    "read_prices",
    "reprice",
]

_MODULES = {
    "SOURCES": ".sources.registry",
    "DecisionLog": ".table.decision_log",
    "Expert": ".pool.expert_pool",
    "ExpertPool": ".pool.expert_pool",
    "InputError": ".io.errors",
    "OutcomeTable": ".table.outcome_table",
    "Profile": ".pool.costs",
    "collect": ".sources.collect",
    "epsilon_greedy": ".table.decision_log",
    "import_results": ".readers.importing",
    "log_decisions": ".table.decision_log",
    "open_table": ".sources.open_table",
    "read_prices": ".table.prices",
    "reprice": ".table.prices",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)
