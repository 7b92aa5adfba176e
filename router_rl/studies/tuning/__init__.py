"""Hyperparameter search with Optuna (extra `[tune]`)."""
