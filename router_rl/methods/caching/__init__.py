"""Methods of the caching problem."""
