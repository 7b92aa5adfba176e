"""Decisions with consequences: environments beyond one choice a query, and the comparison of methods."""
