"""A folder of exported routers, one a layer of a model."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["layers_in"]


def layers_in(folder: Path) -> dict[int, Path]:
    """The folders layer-0, layer-1, ... in it by rising number; none where it is no folder."""
    if not folder.is_dir():
        return {}
    found = {
        int(match.group(1)): path
        for path in folder.iterdir()
        if (match := re.fullmatch(r"layer-(\d+)", path.name))
    }
    return dict(sorted(found.items()))
