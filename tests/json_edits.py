"""Edits of JSON, one place at a time, as a hostile or careless user makes them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

__all__ = ["places", "replaced"]


def places(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value of JSON can be replaced; of a list, the first two."""
    if at:
        yield at
    if isinstance(node, dict):
        for key in node:
            yield from places(node[key], (*at, key))
    elif isinstance(node, list):
        for index in range(min(len(node), 2)):
            yield from places(node[index], (*at, index))


def replaced(content: Any, at: tuple[Any, ...], value: Any) -> Any:
    """The content with another value at a place; `...` removes it."""
    content = copy.deepcopy(content)
    node = content
    for key in at[:-1]:
        node = node[key]
    if value is ...:
        del node[at[-1]]
    else:
        node[at[-1]] = value
    return content
