"""The one error of the inference floor."""

from __future__ import annotations

__all__ = ["RouterError"]


class RouterError(ValueError):
    """A router, a router file or what it was called with cannot be used; says what, and what to do."""
