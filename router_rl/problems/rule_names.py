"""Names of the selection rules that a user can select; this module imports nothing."""

from __future__ import annotations

__all__ = ["RULES"]

RULES = ("hard", "topk", "soft", "hierarchical", "adaptive_k", "expert_choice")
"""Rules that a gate learns (with a bias or groups) are stored in its router and have no name here."""
