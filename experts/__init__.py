"""Frozen experts, and what is known about them."""

from .collect import collect
from .costs import Profile
from .errors import InputError
from .outcomes import OutcomeTable
from .pool import Expert, ExpertPool
from .sources import SOURCES

__all__ = ["SOURCES", "Expert", "ExpertPool", "InputError", "OutcomeTable", "Profile", "collect"]
