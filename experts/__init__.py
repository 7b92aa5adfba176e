"""Frozen experts, and what is known about them."""

from .collect import collect
from .costs import Profile
from .errors import InputError
from .importing import import_results
from .logs import DecisionLog, epsilon_greedy, log_decisions
from .outcomes import OutcomeTable
from .pool import Expert, ExpertPool
from .prices import read_prices, reprice
from .sources import SOURCES

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
