"""Mixtures of experts assembled from dense models of one ancestor, in architectures transformers ships."""

from .assemble import Assembly, assemble
from .layout import Layout, layout_of
from .model_files import Checkpoint

__all__ = ["Assembly", "Checkpoint", "Layout", "assemble", "layout_of"]
