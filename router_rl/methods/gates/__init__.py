"""Learned gates of the literature, on the routing problem."""
