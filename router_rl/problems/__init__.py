"""Problems: what is decided, in which environment, and how a policy is scored."""
