"""Mixtures of experts made of dense models with a common ancestor, in stock transformers architectures."""

from .assemble import Assembly, assemble
from .layout import Layout, layout_of
from .model_files import Checkpoint

__all__ = ["Assembly", "Checkpoint", "Layout", "assemble", "layout_of"]
