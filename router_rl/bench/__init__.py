"""Benchmarks of speed: training methods against Stable-Baselines3, gates against transformers."""
