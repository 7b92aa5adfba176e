"""Mixtures of experts assembled from dense models of one ancestor, in architectures transformers ships."""

from .assemble import Assembly, assemble
from .checkpoint import Checkpoint
from .layout import Layout, layout_of

__all__ = ["Assembly", "Checkpoint", "Layout", "assemble", "layout_of"]
