"""Registry of engines. A new engine is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["ENGINES", "opened_engine"]

ENGINES = {
    "local": "router_rl.studies.engines.local_engine:local_engine",
    "ray": "router_rl.studies.engines.ray_engine:ray_engine",
}


def opened_engine(name: str, shared: Any, jobs: int) -> AbstractContextManager[Engine]:
    """Return an engine, as a context manager.

    Args:
        name: a key of `ENGINES`.
        shared: the value that every job gets.
        jobs: number of jobs at a time.
    """
    module, _, function = ENGINES[name].partition(":")
    opened: Callable[[Any, int], AbstractContextManager[Engine]] = getattr(import_module(module), function)
    return opened(shared, jobs)
