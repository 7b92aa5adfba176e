"""Reinforcement-learning agents of the routing problem."""
