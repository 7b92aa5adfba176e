"""The cache folder of trained experts, collected tables and extracted features."""

from __future__ import annotations

import os
from pathlib import Path

from .atomic import writable_folder

__all__ = ["cache_folder"]


def cache_folder(*parts: str) -> Path:
    """Return a folder below `$ROUTER_RL_CACHE`, by default `~/.cache/router-rl`; it is created.

    Args:
        parts: names of the nested folders.

    Raises:
        InputError: the folder cannot be written to.
    """
    root = os.environ.get("ROUTER_RL_CACHE") or Path.home() / ".cache" / "router-rl"
    return writable_folder("ROUTER_RL_CACHE", Path(root, *parts))
