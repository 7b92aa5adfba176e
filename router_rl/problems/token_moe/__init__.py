"""Token-level routing: which expert each token takes in each layer."""
