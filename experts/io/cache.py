"""Where downloaded, trained and extracted things are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from .atomic import writable_folder

__all__ = ["cache_folder"]


def cache_folder(*parts: str) -> Path:
    """Return a folder under `$ROUTER_RL_CACHE`, or under `~/.cache/router-rl`; it is made if need be.

    Raises:
        InputError: it cannot be written to.
    """
    root = os.environ.get("ROUTER_RL_CACHE") or Path.home() / ".cache" / "router-rl"
    return writable_folder("ROUTER_RL_CACHE", Path(root, *parts))
