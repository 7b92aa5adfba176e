"""Frozen experts, and what is known about them."""

from .io.errors import InputError
from .pool.costs import Profile
from .pool.expert_pool import Expert, ExpertPool
from .readers.importing import import_results
from .sources import SOURCES
from .sources.collect import collect
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
    "read_prices",
    "reprice",
]
