"""Methods of the cascade problem."""
