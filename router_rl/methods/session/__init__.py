"""Methods of the session problem."""
