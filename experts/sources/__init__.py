"""Sources of outcomes: real data, and the frozen experts pretrained on it. Importing this needs no torch."""

from .registry import SOURCES, open_source
from .source import Queries, Source

__all__ = ["SOURCES", "Queries", "Source", "open_source"]
