"""Methods of the queueing problem."""
