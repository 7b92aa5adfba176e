"""The session problem: which model answers each turn of a conversation."""
