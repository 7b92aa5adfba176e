"""The sources of outcomes by name: embedded ones, one line each, and those of installed packages."""

from __future__ import annotations

from collections.abc import Callable

from ..io.plugins import PluginRegistry
from .recorded_table import RecordedTable
from .source import Source

__all__ = ["SOURCES", "open_source"]

SOURCES = PluginRegistry(
    "source",
    "router_rl.sources",
    {
        "digits": "experts.sources.digits:Digits",
        "fashion-mnist": "experts.sources.fashion_mnist:FashionMnist",
        "routellm_gsm8k": "experts.sources.routellm_gsm8k:routellm_gsm8k",
    },
)
"""Source name to `module:ATTR`; the object is called with the source's argument, a string or None."""


def open_source(name: str) -> Source | RecordedTable | None:
    """Return the source of a name, or None if no source has it.

    Args:
        name: `NAME`, or `NAME:ARGUMENT` for a source that takes one, such as `fashion-mnist:/path`.

    Raises:
        InputError: the source exists but cannot be used.
    """
    base, _, argument = name.partition(":")
    if base not in SOURCES:
        return None
    build: Callable[[str | None], Source | RecordedTable] = SOURCES.load(base)
    return build(argument or None)
