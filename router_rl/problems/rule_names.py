"""Names of the selection rules that a user may ask for; importing them needs nothing."""

from __future__ import annotations

__all__ = ["RULES"]

RULES = ("hard", "topk", "soft", "hierarchical", "adaptive_k", "expert_choice")
"""A gate that learns a rule of its own (a bias, groups) keeps it in its router; it has no name here."""
