"""Outcome tables: quality and cost of every expert on every query, checked, split, priced and stored."""

__all__: list[str] = []
