"""How experts come to be."""

from .specialists import Recipe, train_classifier

__all__ = ["Recipe", "train_classifier"]
