"""Frozen experts, and what is known about them."""

from .errors import InputError
from .outcomes import OutcomeTable
from .sources import SOURCES

__all__ = ["SOURCES", "InputError", "OutcomeTable"]
