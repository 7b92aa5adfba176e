"""Baselines and bounds of the routing problem."""
