"""The routing problem: which experts answer a query."""
