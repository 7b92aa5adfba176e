"""Methods of token-level routing inside a mixture of experts."""
