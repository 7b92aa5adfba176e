"""Embedded sources: real data, with the frozen experts pretrained on it."""

from .registry import SOURCES, open_source
from .source import Queries, Source

__all__ = ["SOURCES", "Queries", "Source", "open_source"]
