"""Scorers: features in, logits out."""
