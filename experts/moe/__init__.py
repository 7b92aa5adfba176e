"""Mixtures of experts made from frozen language models."""

__all__: list[str] = []
